"""Saves that die or fail, and checkpoints that are damaged afterwards: the previous one always loads."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlgym.errors import CheckpointError
from rlgym.run_folder import checkpoint
from tests.training.dying import die_at, fail

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def save(run: Path, step: int, value: float) -> Path:
    state: dict[str, dict[str, Any]] = {
        "model": {"w": torch.full((64,), value)},
        "optimizer": {"m": torch.ones(3), "lr": 0.1},
    }
    return checkpoint.save(run, step, state, {"value": value}, {})


def value_of(path: Path) -> float:
    state, loop = checkpoint.load(path)
    value = float(loop["value"])
    assert torch.equal(state["model"]["w"], torch.full((64,), value)), "the parts of one checkpoint belong together"
    return value


def silent(line: str) -> None:
    raise AssertionError(line)


def leftovers(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("step", [2, 1], ids=["new step", "same step"])
def test_fault_1_kill_at_every_phase_of_a_save(tmp_path: Path, step: int) -> None:
    """After each death a valid checkpoint loads without a warning, old or new, and the next save cleans up."""
    found = set()
    for moment in range(200):
        run = tmp_path / str(moment)
        save(run, 1, 1.0)
        died = die_at(moment, lambda run=run: save(run, step, 2.0))  # type: ignore[misc]
        found.add(value_of(checkpoint.newest(run, silent)))
        save(run, 3, 3.0)
        assert leftovers(run) == []
        assert value_of(checkpoint.newest(run, silent)) == 3.0
        if not died:
            break
    assert moment > 20, "the save has that many moments"
    assert not died and found == {1.0, 2.0}


def test_fault_1_kill_at_every_phase_of_a_prune(tmp_path: Path) -> None:
    for moment in range(50):
        run = tmp_path / str(moment)
        for step in (1, 2, 3):
            save(run, step, step)
        died = die_at(moment, lambda run=run: checkpoint.prune(run, 1))  # type: ignore[misc]
        for step in checkpoint.steps(run):
            checkpoint.verify(run / "checkpoints" / f"step_{step}")
        assert value_of(checkpoint.newest(run, silent)) == 3.0
        if not died:
            break
    assert moment > 3 and not died and checkpoint.steps(run) == [3]


def test_another_living_process_is_left_to_its_work(tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        theirs = tmp_path / "checkpoints" / f".staging-step_5-{other.pid}"
        theirs.mkdir()
        save(tmp_path, 2, 2.0)
        assert theirs.exists()
    finally:
        other.communicate(b"\n")
    checkpoint.newest(tmp_path, silent)
    assert theirs.exists(), "reading removes nothing"
    save(tmp_path, 3, 3.0)
    assert not theirs.exists()


FILES = ["model.safetensors", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("fault", ["truncated", "flipped", "missing", "emptied"])
def test_faults_2_3_damage_is_named_and_the_previous_checkpoint_serves(tmp_path: Path, file: str, fault: str) -> None:
    save(tmp_path, 1, 1.0)
    damaged = save(tmp_path, 2, 2.0) / file
    content = damaged.read_bytes()
    middle = len(content) // 2
    if fault == "truncated":
        damaged.write_bytes(content[:-1])
    elif fault == "flipped":
        damaged.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif fault == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(b"")
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        checkpoint.load(damaged.parent)
    warnings: list[str] = []
    assert value_of(checkpoint.newest(tmp_path, warnings.append)) == 1.0
    assert len(warnings) == 1 and file in warnings[0] and "step_2" in warnings[0] and "step_1" in warnings[0]


def test_fault_4_without_its_manifest_a_checkpoint_is_incomplete(tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    (save(tmp_path, 2, 2.0) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        checkpoint.verify(tmp_path / "checkpoints" / "step_2")
    warnings: list[str] = []
    assert checkpoint.newest(tmp_path, warnings.append).name == "step_1"
    assert "incomplete" in warnings[0]


def test_without_a_valid_checkpoint_the_error_names_every_fault(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        checkpoint.newest(tmp_path, silent)
    for step in (1, 2):
        (save(tmp_path, step, 1.0) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step_2.*step_1"):
        checkpoint.newest(tmp_path, silent)


@pytest.mark.parametrize("step", [2, 1], ids=["new step", "same step"])
@pytest.mark.parametrize("name", ["fsync", "rename", "mkdir"])
def test_faults_5_14_21_a_save_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    """A full disk at every fsync, folder and rename: OSError, the old checkpoints stand, no staging folder stays."""
    outcomes = []
    for call in range(12):
        run = tmp_path / f"{name}{call}"
        save(run, 0, 0.0)
        save(run, 1, 1.0)
        with monkeypatch.context() as patch:
            fail(patch, os, name, call)
            try:
                save(run, step, 2.0)
                outcomes.append("saved")
            except OSError as error:
                assert error.errno == errno.ENOSPC
                outcomes.append("failed")
        assert not any(left.startswith(".staging") for left in leftovers(run))
        values = [value_of(run / "checkpoints" / f"step_{s}") for s in checkpoint.steps(run)]
        assert values[0] == 0.0 and 1.0 in values or 2.0 in values, "a failed save prunes nothing"
        value_of(checkpoint.newest(run, silent))
        assert value_of(save(run, 5, 5.0)) == 5.0 and leftovers(run) == []
    assert "failed" in outcomes and outcomes[-1] == "saved"


def test_fault_5_the_system_refuses_to_write_on(tmp_path: Path) -> None:
    """Not a patched function but the kernel: a limit on the size of files."""
    save(tmp_path, 1, 1.0)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        big: dict[str, Any] = {"model": {"w": torch.zeros(50_000)}}
        try:
            checkpoint.save(tmp_path, 2, big, {}, {})
        except OSError as error:
            os._exit(7 if "model.safetensors" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert checkpoint.steps(tmp_path) == [1] and leftovers(tmp_path) == []
    assert value_of(checkpoint.newest(tmp_path, silent)) == 1.0


def test_fault_21_a_failed_replacement_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, 1.0)
    fail(monkeypatch, os, "rename", call=1)  # the first moves the old one aside, the second the new one in
    with pytest.raises(OSError):
        save(tmp_path, 1, 2.0)
    assert value_of(tmp_path / "checkpoints" / "step_1") == 1.0 and leftovers(tmp_path) == []


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    assert value_of(save(tmp_path, 1, 2.0)) == 2.0
    assert checkpoint.steps(tmp_path) == [1] and leftovers(tmp_path) == []


def test_the_latest_hint_is_no_part_of_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, os, "replace")  # only the hint is written through it
    assert value_of(save(tmp_path, 1, 1.0)) == 1.0
    assert not (tmp_path / "checkpoints" / "latest").exists()
    assert checkpoint.newest(tmp_path, silent).name == "step_1"
