"""The losses of preferences equal TRL's on identical inputs: its trainers' own loss functions, run on a tiny model."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgym.ssl.finetune.dpo import answer_log_probs, dpo_loss, ipo_loss
from rlgym.ssl.finetune.reward_model import bradley_terry
from tests.ssl.finetune.test_dpo import batch, tiny_model

pytestmark = pytest.mark.slow

BETA = 0.3


class Served:
    """A model here as TRL's loss asks for one: log-probabilities of the labels and numbers it logs."""

    training = True

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        logits = self.model.logits(self.model(input_ids))[:, :-1, : self.model.tokens]
        wanted = labels[:, 1:]
        each = logits.log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None]).squeeze(-1)
        log_probs = torch.where(wanted >= 0, each, 0.0)
        blank = torch.zeros_like(log_probs)
        return SimpleNamespace(log_probs=log_probs, entropy=blank, mean_logits=blank, is_top1=blank.bool())


def their_dpo(kind: str, model: Any, reference: Any, tokens: Tensor, answer: Tensor) -> Tensor:
    trainer = pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x, unwrap_model=lambda x: x
    )
    served = Served(model)
    own = SimpleNamespace(
        model=served,
        ref_model=Served(reference),
        accelerator=accelerator,
        args=SimpleNamespace(gradient_checkpointing=False, gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=False,
        f_divergence_type="reverse_kl",
        loss_types=[kind],
        loss_weights=[1.0],
        beta=BETA,
        label_smoothing=0.1,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    served.is_gradient_checkpointing = False  # type: ignore[attr-defined]
    inputs = {"input_ids": tokens, "completion_mask": answer.long(), "attention_mask": torch.ones_like(tokens)}
    found: Tensor = trainer._compute_loss(own, served, inputs, False)
    return found


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_dpo_is_trls(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl.trainer.dpo_trainer")
    from contextlib import nullcontext

    monkeypatch.setattr(trl, "disable_gradient_checkpointing", lambda *_: nullcontext())
    monkeypatch.setattr(trl, "is_peft_model", lambda _: False)
    model, reference = tiny_model(1), tiny_model(2).requires_grad_(False)
    tokens, answer = batch()
    theirs = their_dpo(kind, model, reference, tokens, answer)
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    monkeypatch.setattr(Tensor, "float", lambda self: self)  # all of it in float64
    policy, before = (answer_log_probs(each, tokens, answer).view(2, -1) for each in (model, reference))
    lengths = answer.sum(1).view(2, -1)
    each = dpo_loss(policy, before, BETA) if kind == "sigmoid" else ipo_loss(policy / lengths, before / lengths, BETA)
    each.mean().backward()
    assert each.mean().item() == pytest.approx(theirs.item(), rel=1e-9)
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-7, atol=1e-10, msg=name)


def test_bradley_terry_is_trls() -> None:
    trainer = pytest.importorskip("trl.trainer.reward_trainer").RewardTrainer
    scores = torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0, 0.25], dtype=torch.float64)
    margin = torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64)
    model = SimpleNamespace(training=False)
    own = SimpleNamespace(
        model=model,
        args=SimpleNamespace(center_rewards_coefficient=0.01),
        accelerator=SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )

    class Model:
        training = False

        def __call__(self, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=scores[:, None])

    theirs = trainer.compute_loss(own, Model(), {"margin": margin, "attention_mask": torch.ones(6, 2)})
    chosen, rejected = scores.chunk(2)
    ours = (bradley_terry(chosen, rejected, margin) + 0.01 * (chosen + rejected).square()).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
