"""Learning from a reward lifts what docs/results.md says, through the real command line (slow: `make test-all`).

python_syntax goes on from a bare `pretrain`; arithmetic from a model that was taught additions for twenty
seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]


def run(command: str, folder: Path, *words: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl of a run by the real command."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    whole = [sys.executable, "-m", "rlgym", command, f"run.dir='{folder}'", "display=quiet", *words]
    done = subprocess.run(whole, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lifted(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Reward at the start, the best while diverse, and the last; KL a token at the best; distinct_2 as a share of the
    start's, there and where it is least in the whole run."""
    start = next(row for row in rows if "start/reward_mean" in row)
    evaluated = [row for row in rows if "eval/reward_mean" in row]
    best = max(evaluated, key=lambda row: float(row.get("eval/diverse_reward", 0)))
    distinct = [row["eval/distinct_2"] / start["start/distinct_2"] for row in evaluated]
    return {
        "start": start["start/reward_mean"],
        "best": best["eval/diverse_reward"],
        "kl": best["eval/kl"],
        "last": evaluated[-1]["eval/reward_mean"],
        "distinct": best["eval/distinct_2"] / start["start/distinct_2"],
        "least_distinct": min(distinct),
        "seconds": rows[-1]["time"],
    }


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library") / "run"
    run("pretrain", folder)
    return folder


def test_more_completions_are_python(library: Path, tmp_path: Path) -> None:
    found = {}
    for method in ("best_of_n", "grpo", "rloo", "ppo"):
        found[method] = lifted(run("finetune", tmp_path / method, f"method={method}", f"init_from={library}"))
        print(method, found[method])
    for method in ("grpo", "rloo", "ppo"):
        reached = found[method]
        assert reached["best"] >= min(reached["start"] + 0.4, 0.9) and reached["least_distinct"] >= 0.7, method
        assert reached["best"] > found["best_of_n"]["best"] and reached["seconds"] <= 900, method


def test_more_additions_are_right(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    words = ("data=additions", "tokenizer=char", "tokenizer.byte_fallback=false", "model=qwen_nano", "tokens=250_000")
    run("pretrain", parent, *words)
    words = ("method=grpo", "reward=arithmetic", "method.max_new_tokens=5", "method.kl_coef=0.01", "tokens=200_000")
    found = lifted(run("finetune", tmp_path / "run", f"init_from={parent}", *words))
    print(found)
    assert 0.05 < found["start"] < 0.7 and found["best"] >= found["start"] + 0.2
