"""Soft Actor-Critic (Haarnoja et al. 2018, arXiv:1812.05905): the policy is to earn much and to stay random.

A gradient step on a batch from the replay, with alpha the weight of the entropy (ent_coef), a and a' drawn anew from
the policy at the stored states and their successors, and Q-bar the critics' slow targets:

    y              = reward + discount (min over critics of Q-bar(next_obs, a') - alpha log pi(a'|next_obs))
    critics  sum over critics of   E[(Q(obs, action) - y)^2] / 2                                   (equation 5)
    actor    E[alpha log pi(a|obs) - min over critics of Q(obs, a)]                                (equation 7)
    alpha    E[-log alpha (log pi(a|obs) + target_entropy)]                                        (equation 18)

The last is of log alpha instead of alpha, as in the authors' own code and in Stable-Baselines3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rlgym.agents.continuous import Continuous, squared_error
from rlgym.agents.distributions import ClampedGaussian
from rlgym.agents.flat_adam import FlatAdam
from rlgym.agents.replay import Batch
from rlgym.learner import Section

if TYPE_CHECKING:
    from rlgym.agents.config import SACConfig
    from rlgym.agents.policy import Policy


class SAC(Continuous):
    knobs: SACConfig
    distribution: ClampedGaussian

    @staticmethod
    def distribution_of(shape: tuple[int, ...], knobs: Any) -> ClampedGaussian:
        return ClampedGaussian(shape)

    def build(self) -> Policy:
        policy = super().build()
        knobs = self.knobs
        start = float(knobs.ent_coef.removeprefix("auto_")) if knobs.ent_coef != "auto" else 1.0
        self.fixed_ent_coef = torch.tensor(start, device=self.device)
        modules: dict[str, nn.Module] = {"actor": self.actor}
        self.log_ent_coef: nn.Parameter | None = None
        if knobs.ent_coef.startswith("auto"):
            self.log_ent_coef = nn.Parameter(torch.tensor(math.log(start), device=self.device))
            modules["ent_coef"] = nn.ParameterDict({"log": self.log_ent_coef})
        dimensions = self.distribution.dimensions
        self.target_entropy = -dimensions if knobs.target_entropy == "auto" else float(knobs.target_entropy)
        # The coefficient takes its step with the actor's: Adam treats every number by itself, and no gradient of one
        # reaches the other.
        self.actor_adam = FlatAdam(nn.ModuleDict(modules), math.inf, knobs.adam_eps)
        policy.refresh()
        self.losses: tuple[Callable[..., Any], Callable[..., Any]] = (self.critic_loss, self.actor_loss)
        if self.config.compile == "on":
            self.losses = (
                torch.compile(self.critic_loss, dynamic=False),
                torch.compile(self.actor_loss, dynamic=False),
            )
        return policy

    # ---- minimise

    def noise(self, steps: int) -> Tensor:
        """For a and a', `[steps, 2, batch, dimensions]`."""
        shape = (steps, 2, self.knobs.batch_size, self.distribution.dimensions)
        return torch.randn(shape, generator=self.drawer, device=self.device)

    def gradient_step(self, batch: Batch, noise: Tensor, learning_rate: float) -> tuple[dict[str, Tensor], Tensor]:
        critic_loss_of, actor_loss_of = self.losses
        now, then = noise.unbind()
        ent_coef = self.ent_coef()
        critic_loss = critic_loss_of(batch, then, ent_coef)
        _, withheld = self.critics_adam.step(critic_loss, learning_rate)
        actor_loss, ent_coef_loss = actor_loss_of(batch, now, ent_coef)
        both = actor_loss if ent_coef_loss is None else actor_loss + ent_coef_loss
        _, withheld_too = self.actor_adam.step(both, learning_rate)
        if self.gradient_steps % self.knobs.target_update_interval == 0:
            self.critics_target.lerp_(self.critics_adam.parameters, self.knobs.tau)
        statistics = {
            "train/critic_loss": critic_loss.detach(),
            "train/actor_loss": actor_loss.detach(),
            "train/ent_coef": ent_coef,
        }
        if ent_coef_loss is not None:
            statistics["train/ent_coef_loss"] = ent_coef_loss.detach()
        return statistics, withheld + withheld_too

    def ent_coef(self) -> Tensor:
        """alpha, 0-d."""
        return self.fixed_ent_coef if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    @torch.no_grad()
    def td_target(self, batch: Batch, noise: Tensor, ent_coef: Tensor) -> Tensor:
        """y, `[batch]`; `noise [batch, dimensions]` draws a'."""
        action, log_prob = self.distribution.draw(self.actor.policy(batch["next_obs"]), noise)
        value = self.target_critics(batch["next_obs"], action).amin(0) - ent_coef * log_prob
        return torch.addcmul(batch["reward"], batch["discount"], value)

    def critic_loss(self, batch: Batch, noise: Tensor, ent_coef: Tensor) -> Tensor:
        """0-d."""
        q = self.critics(batch["obs"], batch["action"])
        return 0.5 * squared_error(q, self.td_target(batch, noise, ent_coef))

    def actor_loss(self, batch: Batch, noise: Tensor, ent_coef: Tensor) -> tuple[Tensor, Tensor | None]:
        """The actor's loss and a learned alpha's, both 0-d; `noise [batch, dimensions]` draws a."""
        action, log_prob = self.distribution.draw(self.actor.policy(batch["obs"]), noise)
        value = self.fixed_critics(batch["obs"], action).amin(0)
        loss = (ent_coef * log_prob - value).mean()
        if self.log_ent_coef is None:
            return loss, None
        return loss, -self.log_ent_coef * (log_prob.detach().mean() + self.target_entropy)

    # ---- checkpoints

    def networks(self) -> dict[str, Section]:
        learned = {} if self.log_ent_coef is None else {"log": self.log_ent_coef.detach()}
        return {**super().networks(), "ent_coef": learned}

    def load_networks(self, state: Mapping[str, Section]) -> None:
        super().load_networks(state)
        if self.log_ent_coef is not None:
            self.log_ent_coef.data.copy_(cast(Tensor, state["ent_coef"]["log"]))
