"""Proximal Policy Optimization (Schulman et al. 2017, arXiv:1707.06347).

Gathers `n_steps` steps of `num_envs` parallel environments with the current policy; estimates advantages by GAE; then,
for `n_epochs` passes over the rollout in shuffled minibatches, minimises

    clipped surrogate - ent_coef * entropy + vf_coef * value loss

with Adam, the gradient's norm clipped. Differences from the paper are those that every strong implementation has (Huang
et al. 2022, "The 37 Implementation Details of PPO") plus one: a truncated episode is bootstrapped from its final
observation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlgym.agents.common.losses import approximate_kl, clipped_surrogate, standardized, value_loss
from rlgym.agents.on_policy.base import OnPolicy, Optimizer
from rlgym.errors import RequestError
from rlgym.learner import NON_FINITE, Metrics
from rlgym.optim.adam import FlatAdam

if TYPE_CHECKING:
    from rlgym.agents.configs.on_policy import PPOConfig
    from rlgym.agents.on_policy.rollout import Batch
    from rlgym.config.schema import TrainConfig

STATISTICS = (
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
    "train/clip_fraction",
    "train/loss",
)


class PPO(OnPolicy):
    """The learner: `update()` is one rollout and its epochs."""

    knobs: PPOConfig
    optimizer: FlatAdam
    compares_policies = True

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        knobs: PPOConfig = config.agent
        if knobs.recurrent != "none" and knobs.batch_size % knobs.n_steps:
            raise RequestError(
                f"agent.batch_size={knobs.batch_size}: minibatches of agent.recurrent={knobs.recurrent} are whole "
                f"sequences of agent.n_steps={knobs.n_steps}; make it a multiple of that"
            )

    def build_optimizer(self) -> Optimizer:
        return FlatAdam(self.network, self.knobs.max_grad_norm, self.knobs.adam_eps)

    def learn(self, batch: Batch) -> Metrics:
        learning_rate, clip = self.scheduled("learning_rate"), self.scheduled("clip_range")
        statistics, skipped, norm = self.epochs(batch, learning_rate, clip, self.scheduled("ent_coef"))
        return {
            **dict(zip(STATISTICS, statistics, strict=True)),
            NON_FINITE: skipped,
            "train/grad_norm": norm,
            "train/learning_rate": learning_rate,
            "train/clip_range": clip,
        }

    def minibatch_loss(self, batch: Batch, clip: float, ent_coef: float) -> tuple[Tensor, Tensor]:
        """The loss of one minibatch, 0-d, and its `STATISTICS [6]`."""
        knobs = self.knobs
        log_prob, entropy, value = self.evaluate_actions(batch)
        advantage = standardized(batch["advantage"]) if knobs.normalize_advantage else batch["advantage"]
        surrogate, log_ratio = clipped_surrogate(log_prob, batch["old_log_prob"], advantage, clip)
        policy_loss = surrogate.mean()
        critic_loss = value_loss(value, batch["target"], batch["old_value"], knobs.clip_range_vf).mean()
        entropy_loss = -entropy.mean()
        loss = policy_loss + ent_coef * entropy_loss + knobs.vf_coef * critic_loss
        with torch.no_grad():
            clipped = ((log_ratio.exp() - 1).abs() > clip).float().mean()
            statistics = torch.stack([policy_loss, critic_loss, entropy_loss, approximate_kl(log_ratio), clipped, loss])
        return loss, statistics

    def epochs(self, batch: Batch, learning_rate: float, clip: float, ent_coef: float) -> tuple[Tensor, Tensor, Tensor]:
        """All gradient steps of one update. Returns the mean `STATISTICS [6]`, how many steps were skipped, and the
        last gradient's norm."""
        knobs = self.knobs
        coefficients: tuple[Any, Any] = (clip, ent_coef)
        if self.config.compile == "on":  # as tensors: a changing Python number would recompile
            coefficients = (torch.tensor(clip, device=self.device), torch.tensor(ent_coef, device=self.device))
        seen: list[Tensor] = []
        skipped = torch.zeros((), device=self.device)
        norm = skipped
        for _ in range(knobs.n_epochs):
            for minibatch in self.shuffled(batch, knobs.batch_size):
                loss, statistics = self.loss(minibatch, *coefficients)
                norm, bad = self.optimizer.step(loss, learning_rate)
                skipped = skipped + bad
                seen.append(statistics)
            if knobs.target_kl is not None and seen[-1][3] > 1.5 * knobs.target_kl:
                break
        return torch.stack(seen).mean(0), skipped, norm

    @classmethod
    def gradient_steps(cls, config: TrainConfig) -> int:
        knobs: PPOConfig = config.agent
        rows = knobs.n_steps * config.env.num_envs
        return cls.rollouts(config) * knobs.n_epochs * -(-rows // knobs.batch_size)
