"""Runs of the real command that a benchmark looks back at: what has finished already is not run again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from turns import ROOT  # type: ignore[import-not-found]  # beside this


def summary(words: list[str], folder: Path, **environment: str) -> dict[str, Any]:
    """Of the run in `folder`, which is made where it is not there, and begun anew where it did not finish."""
    if not (folder / "summary.json").is_file():
        if (folder / "manifest.json").is_file():  # a run, and no folder of somebody else's
            shutil.rmtree(folder)
        command = [sys.executable, "-W", "ignore", "-m", "rlgym", *words, f"run.dir={folder}"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True)
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found
