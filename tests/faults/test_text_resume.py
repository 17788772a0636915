"""A run on text that was killed with -9 in mid-epoch, twice, equals the one that never was, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from rlgym.cli.main import main
from tests.faults.helpers import rows, start, states, tensors, wait_for
from tests.ssl import tiny

pytestmark = pytest.mark.usefixtures("cache")

EVERY = ["tokens=38_400", "checkpoint.every=4_480", "evaluate.every=6_400", "log.every=1_000", "model.dropout=0.1"]
"""An update is 4 blocks of 32 tokens, so the cadences fall on updates 35, 50 and 8; an epoch is less than 40."""
SECOND_KILL = 17_920
CASES = {
    "masked-documents": [
        "objective=masked",
        "model=bert_nano",
        "optimizer=muon",
        "gradient_accumulation_steps=2",
        "data.packing=documents",
        "ema_decay=0.99",
    ],
    "next_token-stream-kernels": [
        "objective=next_token",
        "model=gpt_nano",
        "optimizer=adamw",
        "gradient_accumulation_steps=2",
        "data.packing=stream",
        "optimizer.schedule=wsd",
        "compile=kernels",
        "model.dropout=0",
    ],
}


def kill(words: list[str], run: Path, step: int, cache: Path) -> None:
    """Start the command and kill it once there is the checkpoint of `step`, wherever it is by then."""
    process = start(*words, cwd=run.parent, RLGYM_CACHE=str(cache))
    wait_for(run / "checkpoints" / f"step_{step}", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run / "summary.json").exists(), "the run had ended before it was killed: make its budget larger"


def same_run(expected: Path, found: Path) -> None:
    """Parameters, optimiser, averages, the loop's state and every logged number but clocks."""
    last = max((expected / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:])).name
    first, second = (tensors(run / "checkpoints" / last) for run in (expected, found))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert states(expected / "checkpoints" / last) == states(found / "checkpoints" / last)
    assert rows(expected) == rows(found)


@pytest.mark.parametrize("case", CASES)
def test_killed_twice_and_resumed_equals_uninterrupted(case: str, tmp_path: Path, cache: Path) -> None:
    text = tiny.write_text(tmp_path / "text")
    words = ["pretrain", *tiny.words(text, *EVERY, *CASES[case])]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main([*words, f"run.dir={straight}"]) == 0
    tokens = json.loads((straight / "manifest.json").read_text())["data"]["tokens"]["train"]
    assert tokens // 32 * 32 * 5 < 38_400, "several epochs pass"
    assert all(step // 32 % (tokens // 32) for step in (4_480, SECOND_KILL)), "killed between two ends of epochs"

    kill([*words, f"run.dir={broken}"], broken, 4_480, cache)
    kill(["resume", str(broken), "display=quiet"], broken, SECOND_KILL, cache)
    assert main(["resume", str(broken), "display=quiet"]) == 0
    manifest = json.loads((broken / "manifest.json").read_text())
    assert manifest["status"] == "finished" and len(manifest["resumed_from"]) == 2
    sections = {name.split(":")[0] for name in tensors(broken / "checkpoints" / "step_38400")}
    ema = {"ema.safetensors"} if "ema_decay=0.99" in CASES[case] else set()
    assert sections == {"model.safetensors", "optimizer.safetensors"} | ema
    same_run(straight, broken)
    losses = [row["train/loss"] for row in rows(straight) if "train/loss" in row]
    assert losses[-1] < losses[0] - 1 and len(set(losses)) == len(losses)

    # and from then on: a larger budget continues both alike
    for run in (straight, broken):
        assert main(["resume", str(run), "tokens=40_000", "display=quiet"]) == 0
    same_run(straight, broken)


def test_a_budget_in_two_sittings_is_the_budget_in_one(tmp_path: Path) -> None:
    """No signal: the first run ended by itself, with an evaluation and a checkpoint that the longer one never made."""
    text = tiny.write_text(tmp_path / "text")
    words = ["pretrain", *tiny.words(text, "model=qwen_nano", "model.dropout=0.1", "log.every=1_024")]
    more = ["evaluate.every=2_560", "checkpoint.every=2_560", "schedule_tokens=5_120"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*words, *more, "tokens=5_120", f"run.dir={whole}"]) == 0
    assert main([*words, *more, "tokens=1_920", f"run.dir={parts}"]) == 0
    assert main(["resume", str(parts), "tokens=5_120", "display=quiet"]) == 0
    first, second = (tensors(run / "checkpoints" / "step_5120") for run in (whole, parts))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    added = {row["step"] for row in rows(parts)} - {row["step"] for row in rows(whole)}
    assert added == {1_920}
    kept = [row for row in rows(parts) if row["step"] > 2_048]
    assert kept == [row for row in rows(whole) if row["step"] > 2_048]
