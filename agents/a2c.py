"""Advantage actor-critic, synchronous (Mnih et al. 2016, arXiv:1602.01783).

Gathers `n_steps` steps of `num_envs` parallel environments with the current policy; estimates advantages by GAE, whose
lambda of 1 is the paper's n-step return less the value; then takes one gradient step on all of it:

    - log pi(a) * advantage - ent_coef * entropy + vf_coef * value loss

with RMSprop, the gradient's norm clipped. A truncated episode is bootstrapped from its final observation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlgym.agents.common.losses import policy_gradient, standardized, value_loss
from rlgym.agents.on_policy.base import OnPolicy, Optimizer
from rlgym.learner import NON_FINITE, Metrics
from rlgym.optim.adam import FlatAdam
from rlgym.optim.rmsprop import FlatRMSprop

if TYPE_CHECKING:
    from rlgym.agents.on_policy.rollout import Batch

STATISTICS = ("train/policy_gradient_loss", "train/value_loss", "train/entropy_loss", "train/loss")


class A2C(OnPolicy):
    """The learner: `update()` is one rollout and one gradient step."""

    knobs: Any  # A2CConfig or REINFORCEConfig

    def build_optimizer(self) -> Optimizer:
        knobs = self.knobs
        if knobs.use_rms_prop:
            return FlatRMSprop(self.network, knobs.max_grad_norm, knobs.rms_prop_eps)
        return FlatAdam(self.network, knobs.max_grad_norm, knobs.adam_eps)

    def learn(self, batch: Batch) -> Metrics:
        learning_rate = self.scheduled("learning_rate")
        loss, statistics = self.loss(self.whole(batch))
        norm, skipped = self.optimizer.step(loss, learning_rate)
        return {
            **dict(zip(STATISTICS, statistics, strict=True)),
            NON_FINITE: skipped,
            "train/grad_norm": norm,
            "train/learning_rate": learning_rate,
        }

    def minibatch_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a rollout, 0-d, and its `STATISTICS [4]`."""
        knobs = self.knobs
        log_prob, entropy, value = self.evaluate_actions(batch)
        advantage = standardized(batch["advantage"]) if knobs.normalize_advantage else batch["advantage"]
        policy_loss = policy_gradient(log_prob, advantage).mean()
        critic_loss = value_loss(value, batch["target"]).mean()
        entropy_loss = -entropy.mean()
        loss = policy_loss + knobs.ent_coef * entropy_loss + knobs.vf_coef * critic_loss
        return loss, torch.stack([policy_loss, critic_loss, entropy_loss, loss]).detach()
