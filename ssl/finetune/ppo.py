"""Proximal Policy Optimization of a language model (Ziegler et al. 2019, arXiv:1909.08593; Ouyang et al. 2022,
arXiv:2203.02155): the algorithm of agent=ppo with tokens as actions. The state is the text so far; a token's reward is
minus `kl_coef` times the log-ratio of its probabilities under policy and frozen reference, and the last token of a
completion also gets the completion's reward. A value head on the same transformer predicts the return from the text
before each token. Minimises, averaged over tokens,

    clipped surrogate + vf_coef * value loss
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from rlgym.agents.common.losses import clipped_surrogate, explained_variance, standardized, value_loss
from rlgym.agents.common.returns import gae
from rlgym.learner import Metrics, Section
from rlgym.ssl.finetune import kl
from rlgym.ssl.finetune.rewarded import Rewarded, spread, surrogate_statistics
from rlgym.ssl.finetune.rollouts import Rollouts
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import PPOMethod


class PPO(Rewarded):
    def prepare(self) -> None:
        super().prepare()
        self.kl_coef = self.knobs.kl_coef

    @property
    def knobs(self) -> PPOMethod:
        found: PPOMethod = self.config.method
        return found

    def make_head(self) -> nn.Module:
        head = nn.Linear(self.start.model.width, 1)  # 0 at first: no expected reward
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
        return head

    def learn(self, rollouts: Rollouts, reward: Tensor) -> Metrics:
        knobs, mask = self.knobs, rollouts.mask
        log_prob, entropy, hidden = self.evaluate_tokens(self.model.backbone, rollouts)
        reference, _, _ = self.evaluate_tokens(self.reference, rollouts)
        with torch.no_grad():
            value = spread(self.values(hidden), mask)
        each = token_rewards(self.shaped(rollouts, reward), log_prob, reference, mask, self.kl_coef)
        advantage = token_advantages(each, value, mask, knobs.gamma, knobs.gae_lambda)
        target = advantage + value
        counts = self.learnable(rollouts)
        if knobs.normalize_advantage and bool(counts.any()):
            advantage = torch.zeros_like(advantage).masked_scatter(counts, standardized(advantage[counts]))
        whole = {
            "tokens": rollouts.tokens,
            "mask": mask,
            "counts": counts,
            "advantage": advantage,
            "target": target,
            "old_log_prob": log_prob,
            "old_value": value,
        }
        metrics: Metrics = {
            **self.observed(rollouts, reward, log_prob, reference, entropy),
            "train/explained_variance": explained_variance(value[mask], target[mask]),
            "train/kl_coef": self.kl_coef,
            **self.steps(whole),
        }
        if knobs.kl_target is not None:
            found = float((kl.k1(log_prob, reference) * mask).sum(1).mean())
            self.kl_coef = adapted(self.kl_coef, found, knobs.kl_target, len(mask), knobs.kl_horizon)
        return metrics

    def values(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.model.head(hidden.float()).squeeze(-1)
        return found

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        knobs, counts = self.knobs, part["counts"]
        log_prob, _, hidden = self.log_probs(self.model.backbone, part)
        value = spread(self.values(hidden), part["mask"])
        high = knobs.clip_range if knobs.clip_range_high is None else knobs.clip_range_high
        surrogate, log_ratio = clipped_surrogate(
            log_prob, part["old_log_prob"], part["advantage"], knobs.clip_range, high
        )
        critic = value_loss(value, part["target"], part["old_value"], knobs.clip_range_vf)
        statistics = surrogate_statistics(part, surrogate, log_ratio, knobs.clip_range, high)
        statistics["train/value_loss"] = (critic * counts).sum().detach() * part["per_token"]
        return ((surrogate + knobs.vf_coef * critic) * counts).sum(), statistics

    def state_dict(self) -> dict[str, Section]:
        return {**super().state_dict(), "kl": {"coef": self.kl_coef}}

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        super().load_state_dict(state)
        self.kl_coef = cast(float, state["kl"]["coef"])


def token_rewards(reward: Tensor, log_prob: Tensor, reference: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Token rewards `[rows, time]`: the KL penalty of each token (k1, whose expected gradient is exact here), plus
    `reward [rows]` at the last token of each completion."""
    each = -kl_coef * kl.k1(log_prob, reference) * mask
    return each + reward[:, None] * last(mask)


def last(mask: Tensor) -> Tensor:
    """Mask of the last True of each row of `mask`."""
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


def token_advantages(reward: Tensor, value: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """GAE over each completion, `[rows, time]`, 0 outside of it. A truncated completion counts as terminated: the token
    limit is part of the task."""
    end = last(mask).to(reward.dtype)
    following = torch.nn.functional.pad(value[:, 1:], (0, 1))
    rewards, values, next_values, ends = (x.T.contiguous() for x in (reward, value, following, end))
    found = gae(rewards, values, next_values, ends, ends, torch.zeros_like(rewards), gamma, lam).T
    return torch.where(mask, found, 0.0)


def adapted(coef: float, found: float, target: float, completions: int, horizon: int) -> float:
    """The adaptive coefficient for the next update, from the measured KL (Ziegler et al. 2019, section 2.2)."""
    error = min(max(found / target - 1, -0.2), 0.2)
    return coef * (1 + error * completions / horizon)
