"""NFSP nears an equilibrium of Kuhn poker, and naive self-play does not (slow: `make test-all`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlgym.api import train
from rlgym.common.atomic_io import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def curve(folder: Path, *words: str) -> list[float]:
    """NashConv at each evaluation."""
    run = train("agent=nfsp", "device=cpu", "threads=1", f"run.dir='{folder}'", "display=quiet", *words)
    return [row["eval/nash_conv"] for row in read_rows(run.dir / "metrics.jsonl") if "eval/nash_conv" in row]


@pytest.mark.parametrize("seed", (1, 2, 3))
def test_kuhn_falls_below_a_tenth(seed: int, tmp_path: Path) -> None:
    found = curve(tmp_path / "run", "env=kuhn_poker", "steps=2_000_000", "evaluate.every=200_000", f"seed={seed}")
    assert found[-1] < 0.1


def test_naive_self_play_stays_exploitable(tmp_path: Path) -> None:
    found = curve(tmp_path / "run", "env=kuhn_poker", "steps=1_000_000", "evaluate.every=50_000", "agent.average=false")
    late = found[len(found) // 2 :]
    assert min(late) > 0.15 and sum(late) / len(late) > 0.3


def test_leduc_falls(tmp_path: Path) -> None:
    found = curve(tmp_path / "run", "env=leduc_poker", "steps=3_000_000", "evaluate.every=500_000")
    assert found[-1] < 2.0 and found[-1] < found[0]
