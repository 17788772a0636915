"""What fault tests share: the real command line as a subprocess, and what a run folder holds, made comparable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tests.command.conftest import Answer

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(*words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rlgym", *words],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def command(*words: str, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command."""
    process = start(*words, cwd=cwd, **environment)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 90) -> None:
    """Until `path` exists, or fail when the process ended or took too long before."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode} before {path}: {process.communicate()[1]}")
        assert time.monotonic() < deadline, f"no {path} within {seconds} s"
        time.sleep(0.001)


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by file and name."""
    return {f"{f.name}:{k}": v for f in sorted(checkpoint.glob("*.safetensors")) for k, v in load_file(f).items()}


def states(checkpoint: Path) -> dict[str, Any]:
    """The JSON parts of a checkpoint without clocks."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    state["loop"].pop("seconds", None)
    for row in state["loop"].get("pending", []):
        for tag in [tag for tag in row if tag.startswith("time/")]:
            row.pop(tag)
    return state


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without time tags."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    counts = ("time/total_timesteps", "time/iterations")
    return [
        {tag: v for tag, v in row.items() if tag in counts or not (tag == "time" or tag.startswith("time/"))}
        for row in found
    ]


def refused(answer: Answer, *said: str) -> str:
    """Exit 2 and one line on stderr."""
    assert (answer.code, answer.out) == (2, ""), answer
    (line,) = answer.err.splitlines()
    assert line.startswith("rlgym: ")
    for part in said:
        assert part in line, line
    return line


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
