"""GRPO's advantages, KL and loss on identical completions, against TRL's GRPOTrainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgym.agents.common.losses import clipped_surrogate
from rlgym.ssl.finetune import kl
from rlgym.ssl.finetune.grpo import group_advantages, normalizer, summed

pytestmark = pytest.mark.slow

ROWS, TIME, GROUP = 8, 7, 4
LENGTHS = [7, 3, 1, 5, 7, 2, 4, 6]


def given() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    log_prob, old, reference = (torch.randn(ROWS, TIME, generator=generator) * 0.3 - 2 for _ in range(3))
    mask = torch.arange(TIME) < torch.tensor(LENGTHS)[:, None]
    reward = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.5, 2.5])
    return {"log_prob": log_prob.requires_grad_(), "old": old, "reference": reference, "mask": mask, "reward": reward}


def theirs(x: dict[str, Tensor], advantage: Tensor, loss_type: str, corrected: bool) -> Tensor:
    """The trainer's own `_compute_loss`, with a model that answers with these log-probabilities."""
    trl = pytest.importorskip("trl")
    from collections import defaultdict

    from trl.trainer.grpo_trainer import GRPOTrainer

    assert trl.__version__.startswith("1."), "compared with TRL 1.16"
    entropies = torch.zeros(ROWS, TIME)
    accelerator = SimpleNamespace(num_processes=1, gather=lambda t: t, reduce=lambda t, **_: t)
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (x["log_prob"], entropies, None),
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=corrected, steps_per_generation=1),
        beta=0.1,
        epsilon_low=0.2,
        epsilon_high=0.28,
        loss_type=loss_type,
        importance_sampling_level="token",
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        max_completion_length=TIME,
        current_gradient_accumulation_steps=1,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.zeros(ROWS, 2, dtype=torch.int64),
        "prompt_mask": torch.ones(ROWS, 2, dtype=torch.int64),
        "completion_ids": torch.zeros(ROWS, TIME, dtype=torch.int64),
        "completion_mask": x["mask"].long(),
        "advantages": advantage,
        "old_per_token_logps": x["old"],
        "ref_per_token_logps": x["reference"],
        "num_items_in_batch": x["mask"].sum(),
    }
    trainer_class: Any = GRPOTrainer
    found: Tensor = trainer_class._compute_loss(trainer, trainer.model, inputs)
    return found


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "bnpo"])
@pytest.mark.parametrize("corrected", [False, True])
def test_kl_and_loss_are_trls(loss_type: str, corrected: bool) -> None:
    x = given()
    advantage = group_advantages(x["reward"], GROUP, "group")
    expected = theirs(x, advantage, loss_type, corrected)
    (slope,) = torch.autograd.grad(expected, x["log_prob"])
    own = "dapo" if loss_type == "bnpo" else loss_type  # one batch: the local tokens are all
    surrogate, _ = clipped_surrogate(x["log_prob"], x["old"], advantage[:, None], 0.2, 0.28)
    divergence = kl.in_loss("k3_ratio" if corrected else "k3", x["log_prob"], x["reference"], x["old"])
    loss = summed(surrogate + 0.1 * divergence, x["mask"], own) / normalizer(x["mask"], own, TIME)
    torch.testing.assert_close(loss, expected)
    (found,) = torch.autograd.grad(loss, x["log_prob"])
    torch.testing.assert_close(found, slope)
