"""Direct preference optimisation: loss and gradient against a direct computation, the reference, and whole runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rlgym
from rlgym.cli.main import main
from rlgym.common.atomic_io import read_rows
from rlgym.config.compose import compose
from rlgym.errors import RequestError
from rlgym.ssl.config import Qwen3Model
from rlgym.ssl.finetune.dpo import DPO, answer_log_probs, dpo_loss, ipo_loss, mean_nll
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.build import build_model
from tests.ssl.finetune import pairs

pytestmark = pytest.mark.usefixtures("cache")

BETA = 0.3


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    return pairs.pretrained(tmp_path_factory.mktemp("parent") / "run", text, "model.dropout=0.2")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.fixture
def learner(parent: Path, table: Path) -> Callable[..., DPO]:
    def make(*more: str) -> DPO:
        return DPO(compose(pairs.words(parent, table, "dpo", "method.samples=2", *more), "finetune"))

    return make


# ---- the mathematics


def tiny_model(seed: int) -> Backbone:
    config: Any = Qwen3Model(
        block_size=16, num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_multiple=16
    )
    model = build_model(config, 19, seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.2)
    return model


SIDES = [([1, 2, 3], [4, 5]), ([1, 6], [7, 8, 9, 10]), ([1, 2, 3], [11]), ([1, 6], [12, 13, 14])]
"""Prompt and answer: the chosen ones of two pairs, then the rejected ones."""


def directly(model: Backbone, prompt: list[int], answer: list[int]) -> Tensor:
    """log p(answer | prompt), a token at a time, without padding or masks."""
    total = torch.zeros((), dtype=torch.float64)
    for at in range(len(answer)):
        hidden = model(torch.tensor([prompt + answer[:at]]))[0, -1]
        logits = model.logits(hidden)[: model.tokens]
        total = total + logits[answer[at]] - logits.exp().sum().log()
    return total


def batch() -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) + len(answer) for prompt, answer in SIDES)
    tokens, answer = torch.zeros(4, longest, dtype=torch.int64), torch.zeros(4, longest, dtype=torch.bool)
    for row, (prompt, rest) in enumerate(SIDES):
        tokens[row, : len(prompt) + len(rest)] = torch.tensor(prompt + rest)
        answer[row, len(prompt) : len(prompt) + len(rest)] = True
    return tokens, answer


@pytest.mark.parametrize("kind", ["sigmoid", "smoothed", "ipo"])
def test_loss_and_gradient_equal_a_direct_computation(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = tiny_model(1), tiny_model(2).requires_grad_(False)
    tokens, answer = batch()
    monkeypatch.setattr(Tensor, "float", lambda self: self)  # all of it in float64
    policy, before = (_log_probs(each, tokens, answer) for each in (model, reference))
    lengths = answer.sum(1).view(2, -1)
    if kind == "ipo":
        loss = ipo_loss(policy / lengths, before / lengths, BETA).sum()
    else:
        loss = dpo_loss(policy, before, BETA, 0.1 if kind == "smoothed" else 0.0).sum()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    expected = torch.zeros((), dtype=torch.float64)
    for pair in range(2):
        (prompt, chosen), (_, rejected) = SIDES[pair], SIDES[pair + 2]
        up = directly(model, prompt, chosen) - directly(reference, prompt, chosen)
        down = directly(model, prompt, rejected) - directly(reference, prompt, rejected)
        if kind == "ipo":
            expected = expected + (up / len(chosen) - down / len(rejected) - 1 / (2 * BETA)) ** 2
        else:
            right = 1 / (1 + (-BETA * (up - down)).exp())
            share = 0.1 if kind == "smoothed" else 0.0
            expected = expected - (1 - share) * right.log() - share * (1 - right).log()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-10, msg=name)


def _log_probs(model: Backbone, tokens: Tensor, answer: Tensor) -> Tensor:
    return answer_log_probs(model, tokens, answer).view(2, -1)


def test_at_the_reference_the_gradient_pulls_half_as_hard_as_beta() -> None:
    """Rafailov et al. 2023, section 4: the weight is sigmoid(r_rejected - r_chosen), 1/2 where nothing has moved."""
    policy = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    dpo_loss(policy, torch.zeros(2, 1, dtype=torch.float64), BETA).sum().backward()
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx([-BETA / 2, BETA / 2])


def test_the_chosen_answers_own_loss_by_hand(learner: Callable[..., DPO]) -> None:
    """Pang et al. 2024, equation 1: beside the preference, alpha times the chosen answer's nats a token."""
    policy = torch.tensor([[-6.0, -3.0], [-4.0, -5.0]])
    lengths = torch.tensor([[3, 2], [1, 7]])
    assert mean_nll(policy[0], lengths[0]).tolist() == [2.0, 1.5]
    plain, both = learner(), learner("method.rpo_alpha=0.5")
    assert plain.config.method.rpo_alpha == 0, "published DPO where the pairs are the user's own"
    more = both.cost(policy, policy, lengths) - plain.cost(policy, policy, lengths)
    assert more.tolist() == pytest.approx([1.0, 0.75])


# ---- the reference


def test_the_first_loss_is_log_2_under_dropout_off_and_nothing_is_preferred(learner: Callable[..., DPO]) -> None:
    one = learner()
    torch.testing.assert_close(one.log_probs_of(range(len(one.pairs))), one.reference, rtol=0, atol=1e-4)
    metrics = one.evaluate().metrics
    assert metrics["validation/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["validation/margin"] == pytest.approx(0, abs=1e-4)
    assert metrics["validation/logratio"] == pytest.approx(metrics["validation/logratio_reference"], abs=1e-3)
    one.start.model.train()
    moved = one.log_probs(one.collate([0, 1, 2]))
    assert (moved - one.reference[:, :3]).abs().max() > 1e-2, "training has dropout, the reference had none"


def test_the_reference_is_found_once_and_kept(learner: Callable[..., DPO]) -> None:
    one = learner()
    before = one.reference.clone()
    for _ in range(3):
        one.update()
    assert torch.equal(one.reference, before)
    assert (one.log_probs_of(range(4)) - before[:, :4]).abs().max() > 1e-4, "the policy has moved"
    other = learner()
    other.reference.zero_()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.reference, before)


def test_an_evaluation_leaves_no_trace(learner: Callable[..., DPO]) -> None:
    watched, alone = learner(), learner()
    for _ in range(2):
        first = watched.evaluate()
        assert first.metrics == watched.evaluate().metrics
        assert {tag: float(v) for tag, v in watched.update().items()} == {
            tag: float(v) for tag, v in alone.update().items()
        }
    for name, parameter in watched.model.named_parameters():
        assert torch.equal(parameter, alone.model.get_parameter(name)), name


# ---- whole runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, parent: Path, table: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dpo"
    words = pairs.words(parent, table, "dpo", "tokens=24_000", "optimizer.learning_rate=1e-3", "method.samples=4")
    words += ["reward=length", "reward.target=30"]
    assert main(["finetune", *words, f"run.dir={folder}"]) == 0
    return folder


def test_the_log_ratio_rises(run: Path) -> None:
    final = json.loads((run / "summary.json").read_text())["final"]
    assert final["validation/logratio"] > final["validation/logratio_reference"] + 1
    assert final["validation/accuracy"] >= 0.9 and final["validation/loss"] < math.log(2)
    assert final["validation/reward_chosen"] > final["validation/reward_rejected"]
    first = next(row for row in read_rows(run / "metrics.jsonl") if "start/sample_reward" in row)
    assert 0 <= first["start/sample_reward"] <= 1 and first["start/sample_length"] > 0
    assert 0 <= final["validation/sample_reward"] <= 1 and final["validation/drift_chosen"] != 0


def test_load_gives_a_language_model_and_evaluate_the_same_figures(run: Path, tmp_path: Path, capsys: Any) -> None:
    model = rlgym.load(run)
    assert model.generate("the sun", 8, seed=1) == model.generate("the sun", 8, seed=1)
    assert main(["generate", str(run), "prompt=the sun", "tokens=4", "seed=1"]) == 0
    final = json.loads((run / "summary.json").read_text())["final"]
    assert main(["evaluate", str(run), "checkpoint=latest"]) == 0
    own = json.loads(max((run / "evaluations").glob("*held_out.json")).read_text())
    assert own["loss"] == pytest.approx(final["validation/loss"], rel=1e-6)
    other = pairs.write_pairs(tmp_path / "other.jsonl", count=20, seed=3)
    assert main(["evaluate", str(run), f"data={other}"]) == 0
    found = json.loads(max((run / "evaluations").glob("*other.jsonl.json")).read_text())
    assert found["examples"] == 20 and found["accuracy"] > 0.8, "the reference was asked about pairs it had not seen"


def test_only_decoders(tmp_path: Path, text: Path, table: Path, capsys: Any) -> None:
    folder = pairs.pretrained(tmp_path / "encoder", text, "objective=masked", "model=bert_nano")
    assert main(["finetune", *pairs.words(folder, table, "dpo")]) == 2
    assert "method=dpo needs a decoder" in capsys.readouterr().err


def test_smoothing_is_of_the_sigmoid(learner: Callable[..., DPO]) -> None:
    with pytest.raises(RequestError, match=r"method\.label_smoothing=0\.1: only with"):
        learner("method.loss_type=ipo", "method.label_smoothing=0.1")
    assert learner("method.loss_type=ipo").evaluate().metrics["validation/loss"] == pytest.approx(25, rel=1e-3)


def test_what_has_no_head_cannot_train_only_that(learner: Callable[..., DPO]) -> None:
    with pytest.raises(RequestError, match=r"adapt\.mode=head"):
        learner("adapt.mode=head")
