"""Twin Delayed DDPG (Fujimoto et al. 2018, arXiv:1802.09477): a deterministic policy climbs the lesser of two critics.

A gradient step on a batch from the replay, with Q-bar and pi-bar the slow targets of critics and policy:

    a'             = clip(pi-bar(next_obs) + clip(noise, -target_noise_clip, target_noise_clip), -1, 1)
    y              = reward + discount min over critics of Q-bar(next_obs, a')
    critics  sum over critics of   E[(Q(obs, action) - y)^2]
    actor    - E[Q_1(obs, pi(obs))]                              every policy_delay steps; so are the targets' updates
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlgym.agents.continuous import Continuous, squared_error
from rlgym.agents.critics import mirror
from rlgym.agents.distributions import NoisyTanh
from rlgym.agents.flat_adam import FlatAdam
from rlgym.agents.replay import Batch

if TYPE_CHECKING:
    from rlgym.agents.config import TD3Config
    from rlgym.agents.policy import Policy


class TD3(Continuous):
    knobs: TD3Config
    distribution: NoisyTanh

    @staticmethod
    def distribution_of(shape: tuple[int, ...], knobs: Any) -> NoisyTanh:
        return NoisyTanh(shape, knobs.action_noise_std)

    def build(self) -> Policy:
        policy = super().build()
        self.actor_adam = FlatAdam(self.actor, math.inf, self.knobs.adam_eps)
        flat = self.actor_adam.flat
        self.actor_target = flat.parameters.clone()
        self.target_actor = mirror(self.actor, flat.views(self.actor_target))
        policy.refresh()
        self.losses: tuple[Callable[..., Tensor], Callable[..., Tensor]] = (self.critic_loss, self.actor_loss)
        if self.config.compile == "on":
            self.losses = (
                torch.compile(self.critic_loss, dynamic=False),
                torch.compile(self.actor_loss, dynamic=False),
            )
        return policy

    def targets(self) -> nn.ModuleDict:
        return nn.ModuleDict({"critics": self.target_critics, "actor": self.target_actor})

    # ---- minimise

    def noise(self, steps: int) -> Tensor:
        """Of the target policy, `[steps, batch, dimensions]`."""
        knobs = self.knobs
        shape = (steps, knobs.batch_size, self.distribution.outputs)
        drawn = torch.randn(shape, generator=self.drawer, device=self.device).mul_(knobs.target_policy_noise)
        return drawn.clamp_(-knobs.target_noise_clip, knobs.target_noise_clip)

    def gradient_step(self, batch: Batch, noise: Tensor, learning_rate: float) -> tuple[dict[str, Tensor], Tensor]:
        critic_loss_of, actor_loss_of = self.losses
        critic_loss = critic_loss_of(batch, noise)
        _, withheld = self.critics_adam.step(critic_loss, learning_rate)
        statistics = {"train/critic_loss": critic_loss.detach()}
        if self.gradient_steps % self.knobs.policy_delay == 0:
            actor_loss = actor_loss_of(batch)
            _, withheld_too = self.actor_adam.step(actor_loss, learning_rate)
            self.critics_target.lerp_(self.critics_adam.parameters, self.knobs.tau)
            self.actor_target.lerp_(self.actor_adam.parameters, self.knobs.tau)
            statistics["train/actor_loss"] = actor_loss.detach()
            withheld = withheld + withheld_too
        return statistics, withheld

    @torch.no_grad()
    def td_target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y, `[batch]`; `noise [batch, dimensions]` as clipped."""
        action = (self.target_actor.policy(batch["next_obs"]).tanh() + noise).clamp(-1, 1)
        value = self.target_critics(batch["next_obs"], action).amin(0)
        return torch.addcmul(batch["reward"], batch["discount"], value)

    def critic_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """0-d."""
        return squared_error(self.critics(batch["obs"], batch["action"]), self.td_target(batch, noise))

    def actor_loss(self, batch: Batch) -> Tensor:
        """0-d."""
        action = self.actor.policy(batch["obs"]).tanh()
        loss: Tensor = -self.fixed_critics(batch["obs"], action, first=1).mean()
        return loss
