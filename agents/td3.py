"""Twin Delayed DDPG (Fujimoto et al. 2018, arXiv:1802.09477): a deterministic policy, the minimum of two critics.

A gradient step on a batch from the replay, with Q-bar and pi-bar the slow targets of critics and policy:

    a'             = clip(pi-bar(next_obs) + clip(noise, -target_noise_clip, target_noise_clip), -1, 1)
    y              = reward + discount min over critics of Q-bar(next_obs, a')
    critics  sum over critics of   E[(Q(obs, action) - y)^2]
    actor    - E[Q_1(obs, pi(obs))]                              every policy_delay steps; so are the targets' updates
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlgym.agents.common.distributions import NoisyTanh
from rlgym.agents.off_policy.continuous import Continuous
from rlgym.agents.off_policy.critics import mirror
from rlgym.agents.off_policy.replay import Batch

if TYPE_CHECKING:
    from rlgym.agents.common.policy import Policy
    from rlgym.agents.configs.continuous import TD3Config


class TD3(Continuous):
    knobs: TD3Config
    distribution: NoisyTanh

    @staticmethod
    def distribution_of(shape: tuple[int, ...], knobs: Any) -> NoisyTanh:
        return NoisyTanh(shape, knobs.action_noise_std)

    def build(self) -> Policy:
        policy = super().build()
        flat = self.actor_adam.flat
        self.actor_target = flat.parameters.clone()
        self.target_actor = mirror(self.actor, flat.views(self.actor_target))
        return policy

    def targets(self) -> nn.ModuleDict:
        return nn.ModuleDict({"critics": self.target_critics, "actor": self.target_actor})

    # ---- minimise

    def noise(self, steps: int) -> Tensor:
        """Noise of the target policy, `[steps, batch, dimensions]`."""
        knobs = self.knobs
        shape = (steps, knobs.batch_size, self.distribution.outputs)
        drawn = torch.randn(shape, generator=self.replay_rng, device=self.device).mul_(knobs.target_policy_noise)
        return drawn.clamp_(-knobs.target_noise_clip, knobs.target_noise_clip)

    @torch.no_grad()
    def gradient_step(self, batch: Batch, noise: Tensor, learning_rate: float) -> tuple[dict[str, Tensor], Tensor]:
        knobs, obs = self.knobs, batch["obs"]
        critic_loss, skipped = self.critics_step(batch, self.td_target(batch, noise), 1.0, learning_rate)
        statistics = {"train/critic_loss": critic_loss}
        if self.gradient_steps % knobs.policy_delay == 0:
            action = self.actor_passes.forward(obs).tanh()
            value, of_action = self.critic_passes.of_action(obs, action, -1 / len(action), first=True)
            self.actor_passes.backward(of_action * (1 - action.square()))
            actor_loss = -value.mean()
            _, skipped_too = self.actor_adam.apply(actor_loss, learning_rate)
            self.critics_target.lerp_(self.critics_adam.parameters, knobs.tau)
            self.actor_target.lerp_(self.actor_adam.parameters, knobs.tau)
            statistics["train/actor_loss"] = actor_loss
            skipped = skipped + skipped_too
        return statistics, skipped

    @torch.no_grad()
    def td_target(self, batch: Batch, noise: Tensor) -> Tensor:
        """TD targets y, `[batch]`; `noise [batch, dimensions]` is already clipped."""
        action = (self.target_actor.policy(batch["next_obs"]).tanh() + noise).clamp(-1, 1)
        value = self.target_q(batch["next_obs"], action)
        return torch.addcmul(batch["reward"], batch["discount"], value)
