"""`runs`: filters, order, and what a broken folder may not break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.conftest import Answer
from tests.fake_runs import fake_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    fake_run(folder, "ppo", "CartPole-v1", 1, {100: 3.0}, name="a", hours=1)
    fake_run(folder, "dqn", "CartPole-v1", 2, {300: 1.0}, name="b", hours=30)
    fake_run(folder, "sb3/ppo", "ALE/Pong-v5", 1, {200: 2.0}, name="c", hours=100, status="failed")
    (folder / "d").mkdir()
    (folder / "d/manifest.json").write_text('{"seed": "x", "agent": 5}')
    return folder


def listed(answer: Answer) -> list[str]:
    assert answer.code == 0, answer.err
    return [line.split()[0] for line in answer.out.splitlines()[1:]]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", "cbad"),
        ("agent=ppo", "a"),
        ("agent=*ppo", "ca"),
        ("agent=ppo,dqn", "ba"),
        ("env=ale/*", "c"),
        ("seed=1", "ca"),
        ("seed=1 status=finished", "a"),
        ("status=failed,broken", "cd"),
        ("since=2d", "bad"),
        ("since=90m", "ad"),
        ("sort=-final", "acbd"),
        ("sort=final", "bcad"),
        ("sort=steps limit=2", "ac"),
        ("sort=-seed", "dbca"),
    ],
)
def test_filters_and_order(words: str, names: str, command: Callable[..., Answer], root: Path) -> None:
    assert "".join(listed(command("runs", *words.split()))) == names


def test_values_are_sorted_within_their_metric(command: Callable[..., Answer], tmp_path: Path) -> None:
    """The best of each first, whichever way that is; a run without a value last of all."""
    values = {"a": ("eval/nash_conv", "min", 0.5), "b": ("eval/nash_conv", "min", 0.1)}
    values |= {"c": ("eval/rating", "max", 0.3), "d": ("eval/rating", "max", 900.0)}
    values |= {"e": ("validation/loss", "min", 0.2)}
    for hours, (name, (tag, better, value)) in enumerate(values.items(), 1):
        fake_run(tmp_path / "runs", name=name, tag=tag, evaluations={1: value}, hours=hours, monitor=[tag, better])
    fake_run(tmp_path / "runs", name="f", evaluations={}, monitor=["eval/rating", "max"])
    assert "".join(listed(command("runs", "sort=-final"))) == "badcef"
    assert "".join(listed(command("runs", "sort=final"))) == "abcdef"
    assert [line.split()[6] for line in command("runs", "sort=-final").out.splitlines()[1:3]] == ["eval/nash_conv"] * 2


def test_nothing_fits(command: Callable[..., Answer], root: Path) -> None:
    assert command("runs", "agent=zzz") == Answer(0, "none of 4 runs under runs/ fits\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("agnt=ppo", "no such folder"),
        ("since=soon", "since=soon: must be a day like 2026-11-20"),
        ("limit=0", "limit=0: must be > 0"),
        ("sort=zzz", "sort=zzz: must be one of name, "),
    ],
)
def test_wrong_requests(words: str, said: str, command: Callable[..., Answer], root: Path) -> None:
    answer = command("runs", *words.split())
    assert answer.code == 2 and said in answer.err and answer.out == ""
