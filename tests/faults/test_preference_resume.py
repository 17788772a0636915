"""A run that learns from preferences, killed with -9, equals the one that never was, bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from rlgym.cli.main import main
from tests.faults.helpers import rows, start, states, tensors, wait_for
from tests.ssl.finetune import pairs

pytestmark = pytest.mark.usefixtures("cache")

EVERY = ["tokens=60_000", "checkpoint.every=6_000", "evaluate.every=9_000", "log.every=1_500"]
CASES = {
    "reward_model": ["gradient_accumulation_steps=2", "method.margin=gap"],
    "dpo": ["method.samples=3", "method.sample_tokens=8", "method.label_smoothing=0.1"],
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    return pairs.pretrained(tmp_path_factory.mktemp("parent") / "run", text, "model.dropout=0.1")


@pytest.mark.parametrize("method", CASES)
def test_killed_and_resumed_equals_uninterrupted(method: str, tmp_path: Path, parent: Path, cache: Path) -> None:
    table = pairs.write_pairs(tmp_path / "pairs.jsonl")
    words = ["finetune", *pairs.words(parent, table, method, *CASES[method], *EVERY)]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main([*words, f"run.dir={straight}"]) == 0
    steps = sorted(int(path.name[5:]) for path in (straight / "checkpoints").glob("step_*"))
    first = next(row["step"] for row in rows(straight) if row["step"] >= 6_000)

    killed = start(*words, f"run.dir={broken}", cwd=tmp_path, RLGYM_CACHE=str(cache))
    wait_for(broken / "checkpoints" / f"step_{first}", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (broken / "summary.json").exists(), "the run had ended before it was killed: make its budget larger"
    assert main(["resume", str(broken), "display=quiet"]) == 0

    name = f"step_{steps[-1]}"
    expected, found = (tensors(run / "checkpoints" / name) for run in (straight, broken))
    assert expected.keys() == found.keys()
    assert ("reference.safetensors:log_probs" in found) == (method == "dpo")
    for key in expected:
        assert torch.equal(expected[key], found[key]), key
    assert states(straight / "checkpoints" / name) == states(broken / "checkpoints" / name)
    assert rows(straight) == rows(broken)
