"""Runs that learn from a reward, through the real command line: what they log, refuse and leave behind."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rlgym
from rlgym.cli.main import main
from rlgym.config.compose import compose
from rlgym.ssl.finetune.grpo import GRPO
from rlgym.ssl.finetune.prompts import header
from rlgym.training.train import build_learner
from tests.ssl import tiny

pytestmark = pytest.mark.usefixtures("cache")

SMALL = [
    "reward=arithmetic",
    "method.max_new_tokens=5",
    "method.prompts=4",
    "method.evaluate_prompts=16",
    "batch_size=8",
]
QUICK = ["threads=1", "display=quiet", "log.histograms=false", "log.every=1", "evaluate.every=0", "checkpoint.every=0"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A model of digits with dropout, which the methods must leave off."""
    folder = tmp_path_factory.mktemp("parent") / "run"
    data = ["data=additions", "data.digits=1", "data.validation_fraction=0.4", "tokenizer=char"]
    model = ["tokenizer.byte_fallback=false", "model=qwen_nano", *tiny.SHAPE, "model.dropout=0.3", "batch_size=8"]
    assert main(["pretrain", *data, *model, *tiny.QUICK, "tokens=20_000", f"run.dir={folder}"]) == 0
    return folder


def learner(parent: Path, *words: str) -> Any:
    return build_learner(compose(["method=grpo", f"init_from={parent}", *SMALL, *QUICK, *words], "finetune"))


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_before_the_first_step_every_ratio_is_one(method: str, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = learner(parent, f"method={method}", "method.group_size=4", "method.top_k=8", "method.temperature=0.8")
    ratios: list[torch.Tensor] = []
    loss = type(found).loss

    def watched(self: Any, part: dict[str, torch.Tensor]) -> Any:
        log_prob, _, _ = self.log_probs(self.model.backbone, part)
        ratios.append((log_prob - part["old_log_prob"]).exp()[part["mask"]].detach())
        return loss(self, part)

    monkeypatch.setattr(type(found), "loss", watched)
    found.update()
    assert len(ratios[0]) > 8
    torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]), atol=1e-5, rtol=0)
    assert not torch.allclose(ratios[-1], torch.ones_like(ratios[-1]), atol=1e-6, rtol=0), "it has learnt since"


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_equal_rewards_move_nothing(method: str, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "method.kl_coef=0",
        "method.group_size=4",
        "optimizer.weight_decay=0",
        "reward=length",
        "reward.target=999",
    ]
    found = learner(parent, f"method={method}", *words)
    monkeypatch.setattr(found.reward, "score", lambda prompts, completions, ended: torch.full((len(prompts),), 0.7))
    before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    metrics = found.update()
    assert float(metrics["train/grad_norm"]) == 0.0 and float(metrics["train/non_finite"]) == 0.0
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_collapsed_model_is_never_the_best(parent: Path) -> None:
    found = learner(parent)
    start = found.update()
    assert found.start_distinct == start["start/distinct_2"] > 0
    fine = found.evaluate()
    assert fine.metrics["eval/diverse_reward"] == fine.metrics["eval/reward_mean"] and not fine.lines
    found.start_distinct = 2 * fine.metrics["eval/distinct_2"]
    collapsed = found.evaluate()
    assert "eval/diverse_reward" not in collapsed.metrics and "collapsed" in collapsed.lines[0]
    again = learner(parent)
    again.load_state_dict(found.state_dict())
    assert again.start_distinct == found.start_distinct
    again.config.method.min_distinct = 0.0
    assert "eval/diverse_reward" in again.evaluate().metrics


def test_truncated_completions(parent: Path) -> None:
    """Scored, left out of the loss, or fined; counted in any case."""
    found: dict[str, GRPO] = {how: learner(parent, f"method.truncated={how}") for how in ("score", "mask", "penalise")}
    any_one = found["score"]
    rollouts, reward = any_one.complete(any_one.train[:24], any_one.generator(0, 0))
    rollouts.ended = torch.arange(len(reward)) % 3 > 0
    cut = ~rollouts.ended
    assert torch.equal(found["score"].learnable(rollouts), rollouts.mask)
    counts = found["mask"].learnable(rollouts)
    assert not counts[cut].any() and torch.equal(counts[~cut], rollouts.mask[~cut])
    torch.testing.assert_close(found["penalise"].shaped(rollouts, reward), reward - cut.float())
    assert torch.equal(found["mask"].shaped(rollouts, reward), reward)
    metrics = any_one.observed(rollouts, reward, *3 * (torch.zeros(rollouts.mask.shape),))
    assert float(metrics["rollout/truncated"]) == float(cut.float().mean())


def test_the_gradient_does_not_depend_on_the_parts(parent: Path) -> None:
    norms = []
    for parts in (1, 3):
        found = learner(
            parent, "method.group_size=2", f"gradient_accumulation_steps={parts}", "reward=length", "reward.target=3"
        )
        norms.append(float(found.update()["train/grad_norm"]))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[0] > 0


@pytest.mark.parametrize("method", ["ppo", "grpo", "rloo", "best_of_n"])
def test_a_run_of_each_method(method: str, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ["method.group_size=2", "tokens=150", "method.above=null"][: 3 if method == "best_of_n" else 2]
    before = {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()}
    assert main(["finetune", f"method={method}", f"init_from={parent}", *SMALL, *QUICK, *words, f"run.dir={run}"]) == 0
    assert {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()} == before, (
        "the parent is untouched"
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = [
        "reward_mean",
        "reward_std",
        "kl",
        "entropy",
        "length",
        "truncated",
        "distinct_1",
        "distinct_2",
        "repetition",
    ]
    assert {f"rollout/{name}" for name in wanted} <= rows[0].keys()
    assert {f"eval/{name}" for name in wanted} <= rows[-1].keys() and "start/reward_mean" in rows[0]
    assert rows[0]["rollout/kl"] == pytest.approx(0.0, abs=1e-6), "it begins at the reference"
    assert rows[0]["train/learning_rate"] > 0
    assert json.loads((run / "manifest.json").read_text())["parent"]["run"] == parent.name
    capsys.readouterr()
    assert main(["generate", str(run), "prompt=1+2=", "tokens=4"]) == 0
    assert capsys.readouterr().out.startswith("1+2=")
    assert main(["evaluate", str(run)]) == 0
    assert "reward_mean" in capsys.readouterr().out
    assert rlgym.load(run).generate("1+2=", max_new_tokens=2, seed=1)


def test_evaluations_are_the_same_each_time_and_leave_no_trace(parent: Path) -> None:
    first, second = learner(parent), learner(parent)
    for _ in range(2):
        second.evaluate()
    assert first.evaluate().metrics == second.evaluate().metrics
    assert {k: float(v) for k, v in first.update().items()} == {k: float(v) for k, v in second.update().items()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=grpo", "reward=regex"], "reward.pattern is empty"),
        (["method=grpo", "reward=nonsense"], "reward=nonsense not found"),
        (["method=grpo", "reward=arithmetic", "method.max_new_tokens=40"], "method.max_new_tokens=40 leaves no room"),
        (["method=rloo", "reward=arithmetic", "method.group_size=1"], "method.group_size=1"),
        (["method=grpo", "reward=arithmetic", "adapt.mode=head"], "adapt.mode=head"),
        (["method=classification", "reward=length"], "reward=length: method=classification takes no reward"),
        (
            ["method=grpo", "reward=my_rewards:fails", "method.max_new_tokens=5"],
            "reward=my_rewards:fails raised ZeroDivisionError",
        ),
        (["method=grpo", "reward=arithmetic", "method.kl_estimator=k1"], "method.kl_estimator=k1"),
        (
            ["method=grpo", "reward=arithmetic", "method.held_out=0.5"],
            "method.held_out=0.5 has no effect because the exercises that pretraining held out",
        ),
        (
            ["method=dpo", "reward=length", "method.samples=0"],
            "reward=length has no effect because method.samples=0",
        ),
    ],
)
def test_requests_that_are_refused(
    words: list[str],
    message: str,
    parent: Path,
    tmp_path: Path,
    own: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    own(fails=lambda prompts, completions: [1 / 0])
    run = tmp_path / "run"
    assert main(["finetune", f"init_from={parent}", *words, *QUICK, f"run.dir={run}"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0 and not run.exists()


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def make(**functions: Any) -> None:
        module = types.ModuleType("my_rewards")
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, "my_rewards", module)

    return make


def test_prompts_of_ones_own_and_the_row_that_is_too_long(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = tmp_path / "prompts.jsonl", tmp_path / "run"
    rows = [{"prompt": f"{a}+{b}="} for a in range(1, 5) for b in range(1, 5)]
    words = ["finetune", "method=grpo", f"init_from={parent}", *SMALL, *QUICK, "method.group_size=2", "tokens=60"]
    words += ["data=jsonl", f"data.path={file}", "method.held_out=0.25"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([*words, f"run.dir={run}"]) == 0
    assert len(json.loads((run / "prompts.json").read_text())["held_out"]) == 4
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "1+" * 20 + "1="}]))
    capsys.readouterr()
    assert main([*words, f"run.dir={tmp_path / 'other'}"]) == 2
    assert ":17: " in (error := capsys.readouterr().err) and "the prompt has" in error
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": " "}]))
    assert main([*words, f"run.dir={tmp_path / 'other'}"]) == 2
    assert ":17: prompt is empty" in capsys.readouterr().err


def test_a_reward_that_fails_in_training_is_exit_3_and_needs_trust_from_then_on(
    parent: Path, tmp_path: Path, own: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def late(prompts: list[str], completions: list[str]) -> list[float]:
        calls.append(len(prompts))
        return [1.0] * (len(prompts) if len(calls) < 4 else 1)

    own(late=late)
    run = tmp_path / "run"
    own_words = [*SMALL, *QUICK, "method.group_size=2", "checkpoint.every=1", "reward=my_rewards:late"]
    words = ["finetune", *tiny.latest("method=grpo", f"init_from={parent}", *own_words)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{a}+{b}="}) + "\n" for a in range(1, 5) for b in range(1, 5)))
    words += ["data=jsonl", f"data.path={file}", f"run.dir={run}"]
    assert main(words) == 3
    error = capsys.readouterr().err.strip()
    assert "reward=my_rewards:late gave numbers of shape [1] for 8 completions" in error and error.count("\n") == 0
    assert list((run / "checkpoints").glob("step_*")), "the last good checkpoint is kept"
    for command in ("resume", "evaluate"):
        assert main([command, str(run)]) == 2
        assert "add trust=true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x):\n    return x\n", "def f(x):"),
        (
            "@cached\n@other(1)\ndef f(x,\n      y):\n    # why\n\n    return x\n",
            "@cached\n@other(1)\ndef f(x,\n      y):",
        ),
        ("async def f(x) -> int:\n    'doc'\n    return x\n", "async def f(x) -> int:"),
        ("def f(x): return x\n", None),
        ("def f(x):\n    @wrapped\n    def g(): pass\n    return g\n", "def f(x):"),
        ("def f(x):  # said\n    return x\n", None),
        ("x = 1\n", None),
        ("def f(:\n", None),
    ],
)
def test_headers(source: str, expected: str | None) -> None:
    assert header(source) == expected
