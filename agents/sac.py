"""Soft Actor-Critic (Haarnoja et al. 2018, arXiv:1812.05905): maximises return plus policy entropy.

A gradient step on a batch from the replay, with alpha the weight of the entropy (ent_coef), a and a' sampled from the
current policy at the stored states and their successors, and Q-bar the critics' slow targets:

    y              = reward + discount (min over critics of Q-bar(next_obs, a') - alpha log pi(a'|next_obs))
    critics  sum over critics of   E[(Q(obs, action) - y)^2] / 2                                   (equation 5)
    actor    E[alpha log pi(a|obs) - min over critics of Q(obs, a)]                                (equation 7)
    alpha    E[-log alpha (log pi(a|obs) + target_entropy)]                                        (equation 18)

The last uses log alpha instead of alpha, as in the authors' own code and in Stable-Baselines3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rlgym.agents.common.distributions import ClampedGaussian
from rlgym.agents.common.squashed_compiled import SquashedByHand
from rlgym.agents.off_policy.continuous import Continuous
from rlgym.agents.off_policy.replay import Batch
from rlgym.learner import Section

if TYPE_CHECKING:
    from rlgym.agents.common.policy import Policy
    from rlgym.agents.configs.continuous import SACConfig


class SAC(Continuous):
    knobs: SACConfig
    distribution: ClampedGaussian

    @staticmethod
    def distribution_of(shape: tuple[int, ...], knobs: Any) -> ClampedGaussian:
        return ClampedGaussian(shape)

    def build(self) -> Policy:
        knobs = self.knobs
        start = float(knobs.ent_coef.removeprefix("auto_")) if knobs.ent_coef != "auto" else 1.0
        self.fixed_ent_coef = torch.tensor(start, device=self.device)
        self.log_ent_coef: nn.Parameter | None = None
        if knobs.ent_coef.startswith("auto"):
            self.log_ent_coef = nn.Parameter(torch.tensor(math.log(start), device=self.device))
        policy = super().build()
        self.drawing: ClampedGaussian | SquashedByHand = SquashedByHand() if self.by_hand else self.distribution
        dimensions = self.distribution.dimensions
        self.target_entropy = -dimensions if knobs.target_entropy == "auto" else float(knobs.target_entropy)
        return policy

    def trained(self) -> nn.Module:
        # One optimiser for the actor and the coefficient: Adam works elementwise, and neither gradient reaches the
        # other.
        modules: dict[str, nn.Module] = {"actor": self.actor}
        if self.log_ent_coef is not None:
            modules["ent_coef"] = nn.ParameterDict({"log": self.log_ent_coef})
        return nn.ModuleDict(modules)

    # ---- minimise

    def noise(self, steps: int) -> Tensor:
        """Noise for a and a', `[steps, 2, batch, dimensions]`."""
        shape = (steps, 2, self.knobs.batch_size, self.distribution.dimensions)
        return torch.randn(shape, generator=self.replay_rng, device=self.device)

    @torch.no_grad()
    def gradient_step(self, batch: Batch, noise: Tensor, learning_rate: float) -> tuple[dict[str, Tensor], Tensor]:
        now, then = noise.unbind()
        ent_coef = self.ent_coef()
        target = self.td_target(batch, then, ent_coef)
        critic_loss, skipped = self.critics_step(batch, target, 0.5, learning_rate)
        statistics = {"train/critic_loss": critic_loss, "train/ent_coef": ent_coef}
        statistics |= self.actor_gradient(batch, now, ent_coef)
        _, skipped_too = self.actor_adam.apply(critic_loss + statistics["train/actor_loss"], learning_rate)
        if self.gradient_steps % self.knobs.target_update_interval == 0:
            self.critics_target.lerp_(self.critics_adam.parameters, self.knobs.tau)
        return statistics, skipped + skipped_too

    def actor_gradient(self, batch: Batch, noise: Tensor, ent_coef: Tensor) -> dict[str, Tensor]:
        """Set the gradients of the actor's loss and of a learned alpha's; both 0-d, by tag. `noise [batch, dimensions]`
        draws a."""
        outputs = self.actor_passes.forward(batch["obs"])
        action, log_prob = self.drawing.draw(outputs, noise)
        share = 1 / len(action)
        value, of_action = self.critic_passes.of_action(batch["obs"], action, -share)
        self.actor_passes.backward(self.drawing.draw_slope(outputs, noise, action, of_action, ent_coef * share))
        mean_log_prob = log_prob.mean()
        losses = {"train/actor_loss": ent_coef * mean_log_prob - value.mean()}
        if self.log_ent_coef is not None:
            slope = torch.neg(mean_log_prob + self.target_entropy, out=cast(Tensor, self.log_ent_coef.grad))
            losses["train/ent_coef_loss"] = self.log_ent_coef * slope
        return losses

    def ent_coef(self) -> Tensor:
        """alpha, 0-d."""
        return self.fixed_ent_coef if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    @torch.no_grad()
    def td_target(self, batch: Batch, noise: Tensor, ent_coef: Tensor) -> Tensor:
        """TD targets y, `[batch]`; `noise [batch, dimensions]` is for a'."""
        action, log_prob = self.drawing.draw(self.actor_passes.forward(batch["next_obs"]), noise)
        value = torch.addcmul(self.target_q(batch["next_obs"], action), ent_coef, log_prob, value=-1)
        return torch.addcmul(batch["reward"], batch["discount"], value)

    # ---- checkpoints

    def networks(self) -> dict[str, Section]:
        learned = {} if self.log_ent_coef is None else {"log": self.log_ent_coef.detach()}
        return {**super().networks(), "ent_coef": learned}

    def load_networks(self, state: Mapping[str, Section]) -> None:
        super().load_networks(state)
        if self.log_ent_coef is not None:
            self.log_ent_coef.data.copy_(cast(Tensor, state["ent_coef"]["log"]))
