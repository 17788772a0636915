"""Fine-tuning killed with -9 and resumed equals the run that never was, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlgym.cli.main import main
from rlgym.config.registry import learner_class
from rlgym.run_folder.config_file import load_config
from tests.faults.test_text_resume import kill, same_run
from tests.ssl.finetune.starts import Starts, write_table

EVERY = [
    "checkpoint.every=1_500",
    "evaluate.every=2_100",
    "log.every=500",
    "threads=1",
    "display=quiet",
    "batch_size=8",
]
CASES = {
    "classification": ["modernbert", "method=classification", "method.focal_gamma=1", "gradient_accumulation_steps=2"],
    "classification-lora": ["qwen3", "method=classification", "adapt.mode=lora"],
    "regression": ["bert", "method=regression", "method.target=size", "adapt.mode=last", "adapt.layers=1"],
    "instruction": [
        "gpt2",
        "method=instruction",
        "method.prompt=text",
        "method.completion=label",
        "method.packing=true",
    ],
}


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Starts:
    return Starts(text, tmp_path_factory.mktemp("starts"))


TWINS = ("classification-lora", "regression")
"""Cases that share all but their beginning with another: for `make test-all`."""


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in TWINS)) for c in CASES])
def test_killed_and_resumed_equals_uninterrupted(case: str, starts: Starts, tmp_path: Path, cache: Path) -> None:
    kind, *more = CASES[case]
    table = write_table(tmp_path / "t.csv", 60)
    own = [] if "method=instruction" in more else ["method.baselines=false"]
    words = ["finetune", f"init_from='{starts[kind]}'", "data=csv", f"data.path='{table}'", *more, *own, *EVERY]
    words.append("tokens=12_000")
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main([*words, f"run.dir={straight}"]) == 0
    kill([*words, f"run.dir={broken}"], broken, first_checkpoint(straight), cache)
    assert main(["resume", str(broken), "display=quiet"]) == 0
    same_run(straight, broken)


def first_checkpoint(run: Path) -> int:
    """The first step behind the cadence: updates are of unequal length, so that a few are made to find it."""
    config = load_config(run)
    learner = learner_class(config).resumed(config, run)
    while learner.progress.step < 1_500:
        learner.update()
    return int(learner.progress.step)
