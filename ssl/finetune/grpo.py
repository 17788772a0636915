"""Group Relative Policy Optimization (Shao et al. 2024, arXiv:2402.03300), with the changes of Dr. GRPO (Liu et al.
2025, arXiv:2503.20783) and DAPO (Yu et al. 2025, arXiv:2503.14476).

Samples a group of completions for each prompt. The advantage of a completion, shared by its tokens, is its reward minus
the group's mean, divided by the group's deviation. Minimises, averaged over tokens,

    clipped surrogate + kl_coef * KL to the frozen reference
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.agents.common.losses import clipped_surrogate
from rlgym.learner import Metrics
from rlgym.ssl.finetune import kl
from rlgym.ssl.finetune.rewarded import Rewarded, surrogate_statistics
from rlgym.ssl.finetune.rollouts import Rollouts
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import GRPOMethod

SMALL = 1e-4


class GRPO(Rewarded):
    @property
    def knobs(self) -> GRPOMethod:
        found: GRPOMethod = self.config.method
        return found

    def learn(self, rollouts: Rollouts, reward: Tensor) -> Metrics:
        knobs = self.knobs
        log_prob, entropy, _ = self.evaluate_tokens(self.model.backbone, rollouts)
        reference, _, _ = self.evaluate_tokens(self.reference, rollouts)
        advantage = group_advantages(self.shaped(rollouts, reward), knobs.group_size, knobs.scale_rewards)
        whole = {
            "tokens": rollouts.tokens,
            "mask": rollouts.mask,
            "counts": self.learnable(rollouts),
            "advantage": advantage,
            "old_log_prob": log_prob,
            "reference": reference,
        }
        flat = (advantage.view(-1, knobs.group_size) == 0).all(1).float().mean()
        return {
            **self.observed(rollouts, reward, log_prob, reference, entropy),
            "rollout/flat_groups": flat,
            **self.steps(whole),
        }

    def weight(self, part: Batch) -> Tensor:
        return normalizer(part["counts"], self.knobs.normalization, self.knobs.max_new_tokens)

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        knobs, counts = self.knobs, part["counts"]
        log_prob, _, _ = self.log_probs(self.model.backbone, part)
        high = knobs.clip_range if knobs.clip_range_high is None else knobs.clip_range_high
        surrogate, log_ratio = clipped_surrogate(
            log_prob, part["old_log_prob"], part["advantage"][:, None], knobs.clip_range, high
        )
        each = surrogate
        if knobs.kl_coef:
            divergence = kl.in_loss(knobs.kl_estimator, log_prob, part["reference"], part["old_log_prob"])
            each = each + knobs.kl_coef * divergence
        statistics = surrogate_statistics(part, surrogate, log_ratio, knobs.clip_range, high)
        return summed(each, counts, knobs.normalization), statistics


def group_advantages(reward: Tensor, group_size: int, scale: str) -> Tensor:
    """Advantages from `reward [groups x group_size]`: minus the group's mean, divided by the deviation of the group, of
    the batch, or not at all (`scale`: group, batch, none). Exactly 0 in groups of equal rewards."""
    groups = reward.view(-1, group_size)
    equal = (groups == groups[:, :1]).all(1, keepdim=True)
    advantage = torch.where(equal, 0.0, groups - groups.mean(1, keepdim=True))
    if scale == "group" and group_size > 1:
        advantage = advantage / (groups.std(1, keepdim=True) + SMALL)
    elif scale == "batch" and reward.numel() > 1:
        advantage = advantage / (reward.std() + SMALL)
    return advantage.flatten()


def summed(each: Tensor, counts: Tensor, normalization: str) -> Tensor:
    """The sum, 0-d, of the token losses `each [rows, time]`, to be divided by `normalizer`."""
    total = (each * counts).sum(1)
    if normalization == "grpo":
        total = total / counts.sum(1).clamp(min=1)
    return total.sum()


def normalizer(counts: Tensor, normalization: str, max_new_tokens: int) -> Tensor:
    """The divisor: rows for grpo, each being a mean over its tokens; tokens for dapo; rows x maximum tokens for
    dr_grpo."""
    if normalization == "dapo":
        return counts.sum()
    rows = torch.tensor(len(counts), device=counts.device)
    return rows if normalization == "grpo" else rows * max_new_tokens
