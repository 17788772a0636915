"""The manifest's record of command, code, machine and process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from rlgym.config.schema import RootConfig
from rlgym.run_folder.records import Process

PACKAGES = (
    "rlgym-ssl", "torch", "numpy", "gymnasium", "hydra-core", "omegaconf", "safetensors", "tensorboard",
    "stable-baselines3", "transformers", "datasets", "ale-py", "box2d", "mujoco", "minigrid",
)  # fmt: skip


def facts(config: RootConfig, command: list[str]) -> dict[str, Any]:
    """A new run's manifest. Entries that are None here are filled in by the trainer."""
    return {
        "command": command,
        "root": config.root,
        **config.subject,
        "seed": config.seed,
        "status": "running",
        "start": now(),
        "end": None,
        **process(),
        "device": None,
        "threads": None,
        "cuda": None,
        "data": None,
        "monitor": None,
        "resume": None,
        "git": git(Path(__file__).resolve().parent.parent),
        "packages": dict(versions()),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


NOT_EXACT = "not exact"
"""Prefix of a promise that a resume could not keep."""


def promises(recorded: dict[str, str] | None, now: dict[str, str]) -> dict[str, str]:
    """The promises about resumes that hold `now`, keeping records of what an earlier resume has lost."""
    return now | {part: said for part, said in (recorded or {}).items() if said.startswith(NOT_EXACT)}


def process() -> Process:
    """The training process; a resume records its own. The start time distinguishes reused process ids."""
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "pid_start": psutil.Process().create_time()}


def alive(pid: int, start: float | None = None) -> bool:
    """Whether a process of this machine is running; with `start`, whether it is still the same one."""
    import psutil

    try:
        found = psutil.Process(pid)
        same = start is None or abs(found.create_time() - start) < 2  # tolerates changes of the clock
        return bool(same and found.status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


def git(checkout: Path) -> dict[str, Any] | None:
    """The code's commit and whether files differ from it; None outside of a checkout or without git."""
    if not (checkout / ".git").exists():
        return None
    words = ["git", "-C", str(checkout), "status", "--porcelain=v2", "--branch"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # read-only: no refresh of the index
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=5, env=environment, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.splitlines()
    sha = next((line.split()[2] for line in lines if line.startswith("# branch.oid")), None)
    return {"sha": sha, "dirty": any(not line.startswith("#") for line in lines)}


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
