"""How long a person waits: for the help, and from the command's start until the first update has been logged.

python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RLGYM = [sys.executable, "-m", "rlgym"]
ROOT = Path(__file__).resolve().parent.parent


def help_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([*RLGYM, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def first_update_seconds() -> float:
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "run" / "metrics.jsonl"
        words = ["env=CartPole-v1", "steps=100_000", "log.every=1", "display=quiet", f"run.dir={rows.parent}"]
        began = time.perf_counter()
        process = subprocess.Popen([*RLGYM, *words], cwd=ROOT)
        while process.poll() is None and not (rows.is_file() and rows.stat().st_size):
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        process.kill()
        process.wait()
    return seconds


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(words)
    for name, measure in (("--help", help_seconds), ("first update", first_update_seconds)):
        measure()  # warm
        seconds = [measure() for _ in range(given.repeats)]
        spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
        print(f"{name}: median {statistics.median(seconds):.2f} s ({spread}) of {given.repeats}")


if __name__ == "__main__":
    main(sys.argv[1:])
