"""Commands on a run: their words arrive typed, their text as it was typed, and only after the run was found."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rlgym.config.compose import compose
from rlgym.config.options import positional, split
from rlgym.config.schema import TrainConfig
from rlgym.run_folder.config_file import load_config, save_config
from tests.command.conftest import Answer

CALLS: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of resume, evaluate, play and train, which only note what they were called with."""
    CALLS.clear()
    for place in ("rlgym.training.resume", "rlgym.cli.evaluate", "rlgym.cli.play"):
        fake, name = ModuleType(place), place.rpartition(".")[2]
        setattr(fake, name, lambda run, words, name=name: note(name, run, words))
        monkeypatch.setitem(sys.modules, place, fake)
    train = ModuleType("rlgym.training.train")
    train.run_training = lambda config, command: note("train", config, command)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rlgym.training.train", train)


def note(*call: Any) -> Any:
    CALLS.append(call)
    return SimpleNamespace(exit_code=0, dir=Path("runs/x"), summary={})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that holds nothing but its config; its name has an = in it."""
    folder = tmp_path / "runs/2026-01-01_00-00-00_lr=3"
    folder.mkdir(parents=True)
    save_config(compose(["env=Acrobot-v1", "seed=5", f"run.dir='{folder}'"]), folder / "config.yaml")
    (folder / "manifest.json").write_text("{}")
    return folder


def test_split_keeps_the_text_as_typed() -> None:
    assert split('prompt=def f(x):\n    return "a=b, [MASK]" ') == ("prompt", 'def f(x):\n    return "a=b, [MASK]" ')


def test_a_folder_name_may_hold_an_equals_sign() -> None:
    assert positional({"seed", "episodes"}, ["runs/lr=3", "seed=1"]) == ("runs/lr=3", ["seed=1"])
    assert positional({"seed", "episodes"}, ["seed=1"]) == (None, ["seed=1"])


def test_words_arrive_typed_with_every_default(command: Callable[..., Answer], run: Path) -> None:
    assert command("evaluate", str(run), "episodes=1e2", "seed=3", "trust=true", "checkpoint=2000").code == 0
    words = {"episodes": 100, "opponents": "", "positions": "", "max_episode_steps": None, "seed": 3}
    words |= {"checkpoint": "2000", "device": "auto", "trust": True}
    assert CALLS[:] == [("evaluate", run, words)]
    assert [type(value) for value in CALLS[0][2].values()] == [int, str, str, type(None), int, str, str, bool]


def test_each_command_calls_its_function(command: Callable[..., Answer], run: Path) -> None:
    assert command("resume", str(run), "steps=2_000", "minutes=.5").code == 0
    assert command("play", str(run), "seed=null", "render=window").code == 0
    (_, first, resume), (_, second, play) = CALLS
    assert first == second == run
    assert (resume["steps"], resume["minutes"], resume["updates"], resume["display"]) == (2000, 0.5, None, "auto")
    assert (play["episodes"], play["seed"], play["render"]) == (1, None, "window")


@pytest.mark.parametrize("short", ["last", "2026-01-01", "lr=3"])
def test_run_by_its_short_name(short: str, command: Callable[..., Answer], run: Path) -> None:
    assert command("evaluate", short).code == 0
    assert CALLS[0][1].resolve() == run.resolve()


def test_rerun_trains_an_equal_config_in_a_folder_of_its_own(command: Callable[..., Answer], run: Path) -> None:
    saved = load_config(run)
    assert saved.run.dir == str(run)
    assert command("rerun", str(run)).code == 0
    ((_, config, line),) = CALLS
    saved.run.dir = ""
    assert config == saved
    assert line == ["rlgym", "rerun", str(run)]


def test_rerun_with_changed_keys(command: Callable[..., Answer], run: Path) -> None:
    assert command("rerun", str(run), "seed=9", "agent.gamma=0.5", "trust=false", "run.dir=new").code == 0
    config: TrainConfig = CALLS[0][1]
    assert (config.seed, config.agent.gamma, config.run.dir, config.env.id) == (9, 0.5, "new", "Acrobot-v1")
    shown = command("rerun", str(run), "seed=9", "--cfg", "job")
    assert "seed: 9\n" in shown.out and len(CALLS) == 1


def test_a_foreign_run_runs_no_code(command: Callable[..., Answer], run: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("id: Acrobot-v1", "id: evil:Acrobot-v1"))
    answer = command("rerun", str(run))
    assert answer.code == 2 and "names code to import: add trust=true" in answer.err
    (run / "config.yaml").write_text(text.replace("kwargs: {}", "kwargs: {x: {_target_: evil.main}}"))
    answer = command("rerun", str(run), "trust=true")
    assert answer.code == 2 and "_target_=evil.main: refused" in answer.err
    assert CALLS == [] and not canary.exists()


def test_the_default_command_trains_ppo_on_cartpole(command: Callable[..., Answer]) -> None:
    assert [command().code, command("train").code, command("seed=1").code] == [0, 0, 0]
    assert all(config == compose([]) for _, config, _ in CALLS)
    assert (CALLS[0][1].agent.name, CALLS[0][1].env.id) == ("ppo", "CartPole-v1")
    assert [line for _, _, line in CALLS] == [["rlgym"], ["rlgym", "train"], ["rlgym", "seed=1"]]


def test_cfg_job_prints_the_config_that_would_train(command: Callable[..., Answer], tmp_path: Path) -> None:
    answers = [command(*flag, "env=Pendulum-v1") for flag in (["--cfg", "job"], ["-c", "job"], ["--cfg=job"])]
    assert {answer.code for answer in answers} == {0}
    assert len({answer.out for answer in answers}) == 1
    assert list(tmp_path.iterdir()) == [] and CALLS == []
    (tmp_path / "config.yaml").write_text(answers[0].out)
    assert load_config(tmp_path) == compose(["env=Pendulum-v1"])


def test_runs_lists_what_is_there(command: Callable[..., Answer], run: Path) -> None:
    other = run.parent / "2026-01-02_00-00-00_b"
    other.mkdir()
    for folder, steps in ((run, 5), (other, 30_000)):
        (folder / "manifest.json").write_text('{"status": "finished", "seed": 1}')
        (folder / "summary.json").write_text(f'{{"steps": {steps}, "wall_time_s": 75.2}}')
    answer = command("runs")
    header, *rows = answer.out.splitlines()
    assert header.split()[:2] == ["name", "agent"] and len(rows) == 2
    assert "30,000" in answer.out and "0:01:15" in answer.out and "\x1b" not in answer.out
    by_steps = [command("runs", str(run.parent), f"sort={key}").out.splitlines()[1][:10] for key in ("steps", "-steps")]
    assert by_steps == ["2026-01-01", "2026-01-02"]
    wrong = command("runs", "sort=stpes")
    assert wrong.code == 2 and "did you mean sort=steps?" in wrong.err


def test_no_runs_is_no_fault(command: Callable[..., Answer]) -> None:
    assert command("runs") == Answer(0, "no runs under runs/\n", "")
