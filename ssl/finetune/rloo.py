"""REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740).

A completion is one action. Its reward is the task's minus `kl_coef` times its KL to the frozen reference; its advantage
is that minus the mean of the prompt's other completions. Minimises the clipped surrogate of the whole completion's
probability, which has the gradient of REINFORCE before the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.agents.common.losses import clipped_surrogate, standardized
from rlgym.errors import RequestError
from rlgym.learner import Metrics
from rlgym.ssl.finetune import kl
from rlgym.ssl.finetune.rewarded import Rewarded
from rlgym.ssl.finetune.rollouts import Rollouts
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import RLOOMethod


class RLOO(Rewarded):
    @property
    def knobs(self) -> RLOOMethod:
        found: RLOOMethod = self.config.method
        return found

    def prepare(self) -> None:
        if self.knobs.group_size < 2:
            raise RequestError(
                "method.group_size=1: method=rloo compares completions of one prompt; 2 or more would do"
            )
        super().prepare()

    def learn(self, rollouts: Rollouts, reward: Tensor) -> Metrics:
        knobs = self.knobs
        log_prob, entropy, _ = self.evaluate_tokens(self.model.backbone, rollouts)
        reference, _, _ = self.evaluate_tokens(self.reference, rollouts)
        cost = kl.k1(log_prob, reference).sum(1)
        advantage = leave_one_out(self.shaped(rollouts, reward) - knobs.kl_coef * cost, knobs.group_size)
        if knobs.normalize_advantage:
            advantage = standardized(advantage)
        whole = {
            "tokens": rollouts.tokens,
            "mask": rollouts.mask,
            "counts": self.learnable(rollouts),
            "advantage": advantage,
            "old_log_prob": log_prob,
        }
        return {**self.observed(rollouts, reward, log_prob, reference, entropy), **self.steps(whole)}

    def weight(self, part: Batch) -> Tensor:
        return torch.tensor(len(part["counts"]), device=self.device)

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        knobs = self.knobs
        log_prob, _, _ = self.log_probs(self.model.backbone, part)
        counts = part["counts"].any(1).float()
        high = knobs.clip_range if knobs.clip_range_high is None else knobs.clip_range_high
        surrogate, log_ratio = clipped_surrogate(
            log_prob.sum(1), part["old_log_prob"].sum(1), part["advantage"], knobs.clip_range, high
        )
        with torch.no_grad():
            ratio = log_ratio.exp()
            clipped = ((ratio < 1 - knobs.clip_range) | (ratio > 1 + high)).float()
        return (surrogate * counts).sum(), {"train/clip_fraction": clipped.sum()}


def leave_one_out(reward: Tensor, group_size: int) -> Tensor:
    """`reward [groups x group_size]` minus the mean of the others in its group."""
    groups = reward.view(-1, group_size)
    equal = (groups == groups[:, :1]).all(1, keepdim=True)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return torch.where(equal, 0.0, groups - others).flatten()
