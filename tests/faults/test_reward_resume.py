"""A run that learns from a reward, killed with -9 in mid-sampling, equals the one that never was, bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from rlgym.cli.main import main
from tests.faults.helpers import rows, start, states, tensors, wait_for
from tests.ssl import tiny

pytestmark = pytest.mark.usefixtures("cache")

SHAPE = [*tiny.SHAPE, "tokenizer=char", "tokenizer.byte_fallback=false"]
SMALL = [
    "reward=arithmetic",
    "method.max_new_tokens=6",
    "method.prompts=6",
    "method.evaluate_prompts=20",
    "batch_size=8",
]
EVERY = ["tokens=4_000", "checkpoint.every=700", "evaluate.every=1_500", "log.every=1", "checkpoint.keep=9"]
CASES = {
    "ppo": ["method.group_size=4", "method.kl_target=0.5", "method.kl_horizon=100", "gradient_accumulation_steps=2"],
    "grpo": ["method.group_size=4", "method.n_epochs=2", "method.top_k=9", "adapt.mode=lora"],
    "rloo": ["method.group_size=4", "method.temperature=0.8"],
    "best_of_n": ["method.above=null"],
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("parent") / "run"
    words = [
        "data=additions",
        "data.digits=1",
        "data.validation_fraction=0.4",
        "model=qwen_nano",
        *SHAPE,
        *tiny.QUICK,
        "model.dropout=0.1",
        "batch_size=8",
    ]
    assert main(["pretrain", *words, "tokens=20_000", f"run.dir={folder}"]) == 0
    return folder


TWINS = ("rloo", "best_of_n")
"""Cases that share all but their loss with another: for `make test-all`."""


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m in TWINS)) for m in CASES])
def test_killed_in_mid_sampling_and_resumed_equals_uninterrupted(
    method: str, tmp_path: Path, parent: Path, cache: Path
) -> None:
    if "adapt.mode=lora" in CASES[method]:
        pytest.importorskip("peft")
    words = ["finetune", f"method={method}", f"init_from={parent}", *SMALL, *CASES[method], *EVERY]
    words += ["threads=1", "display=quiet", "log.histograms=false"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main([*words, f"run.dir={straight}"]) == 0
    steps = sorted(int(path.name[5:]) for path in (straight / "checkpoints").glob("step_*"))
    first = next(row["step"] for row in rows(straight) if row["step"] >= 700)

    killed = start(*words, f"run.dir={broken}", cwd=tmp_path, RLGYM_CACHE=str(cache))
    wait_for(broken / "checkpoints" / f"step_{first}", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (broken / "summary.json").exists(), "the run had ended before it was killed: make its budget larger"
    assert main(["resume", str(broken), "display=quiet"]) == 0

    expected, found = (tensors(run / "checkpoints" / f"step_{steps[-1]}") for run in (straight, broken))
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
    assert states(straight / "checkpoints" / f"step_{steps[-1]}") == states(
        broken / "checkpoints" / f"step_{steps[-1]}"
    )
    assert rows(straight) == rows(broken)
    shared = [sorted(path.name for path in (run / "checkpoints" / "shared").iterdir()) for run in (straight, broken)]
    assert shared[0] == shared[1] and len(shared[0]) == 1, "one reference, kept once"
