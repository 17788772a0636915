"""What SAC and TD3 share: an exploring actor, critics as one batched network, and slowly updated targets.

Each network is one flat vector: Adam's step is one call, and so is a target's,

    target <- target + tau (network - target)

Observations are stored as they came, and scaled when they are drawn (env.normalize_observation). The statistics take in
each observation once, when it is acted on, and stand still while gradient steps are taken; actor, critics and targets
have the same ones.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from rlgym.agents.common.action_spaces import agents_for, refused
from rlgym.agents.common.base import seeded
from rlgym.agents.common.distributions import Distribution
from rlgym.agents.common.manual_backward import Memory
from rlgym.agents.common.policy import Policy
from rlgym.agents.off_policy.base import OffPolicy
from rlgym.agents.off_policy.critic_gradient import (
    ActorByHand,
    ActorPasses,
    AutogradActor,
    AutogradCritics,
    CriticPasses,
    CriticsByHand,
)
from rlgym.agents.off_policy.critics import Actor, Critics, mirror, share_buffers
from rlgym.agents.off_policy.replay import Batch
from rlgym.learner import NON_FINITE, Metrics, Section
from rlgym.optim.adam import FlatAdam
from rlgym.optim.flat_params import restore
from rlgym.training.load_module import load_module
from rlgym.training.schedules import factor

if TYPE_CHECKING:
    from rlgym.config.schema import TrainConfig
    from rlgym.envs.batch import BatchEnv
    from rlgym.envs.spaces import Array, Obs


class Continuous(OffPolicy):
    """A subclass chooses the distribution, adds the actor's optimiser and takes the gradient steps."""

    distribution: Distribution
    actor: Actor
    actor_adam: FlatAdam
    critics: Critics
    critics_adam: FlatAdam
    critics_target: Tensor
    """The parameters of `target_critics` as one vector."""
    target_critics: Critics
    actor_passes: ActorPasses
    critic_passes: CriticPasses
    target_q: Callable[[dict[str, Tensor], Tensor], Tensor]
    """The least of the target critics' q `[batch]`, without gradients."""
    by_hand: bool
    """Whether all passes are (by_hand.py): on a CPU, where encoders learn nothing."""
    gradient_steps: int

    # ---- what a subclass says

    @staticmethod
    @abstractmethod
    def distribution_of(shape: tuple[int, ...], knobs: Any) -> Distribution:
        """The distribution of actions of this shape, all of them within [-1, 1]."""

    @abstractmethod
    def noise(self, steps: int) -> Tensor:
        """The random numbers of `steps` gradient steps, `[steps, ...]`."""

    @abstractmethod
    def gradient_step(self, batch: Batch, noise: Tensor, learning_rate: float) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient step that `gradient_steps` counts to. Returns its statistics by tag, and how many steps of its
        optimisers were skipped, all of them 0-d."""

    # ---- networks

    def build(self) -> Policy:
        config, knobs = self.config, self.knobs
        policy = build_policy(type(self), config, self.env, self.device)
        assert isinstance(policy.network, Actor)
        self.actor, self.distribution = policy.network, policy.distribution
        with seeded(config.seed + 1):
            critics = Critics(
                self.env.leaves,
                math.prod(self.distribution.action_shape),
                list(knobs.net_arch),
                knobs.activation,
                knobs.n_critics,
                config.env.normalize_observation,
            )
        self.critics = critics.to(self.device)
        share_buffers(self.critics.encoder.norms, self.actor.encoder.norms)
        self.critics_adam = FlatAdam(self.critics, math.inf, knobs.adam_eps)
        flat = self.critics_adam.flat
        self.critics_target = flat.parameters.clone()
        self.target_critics = mirror(self.critics, flat.views(self.critics_target))
        self.gradient_steps = 0
        self.actor_adam = FlatAdam(self.trained(), math.inf, knobs.adam_eps)
        policy.refresh()
        self.by_hand = policy.numpy_actor is not None and not self.actor.encoder.learns and config.compile != "on"
        if self.by_hand:
            turns, slopes = Memory(), Memory()
            self.actor_passes = ActorByHand(self.actor, slopes)
            self.critic_passes = CriticsByHand(self.critics, turns, slopes)
            self.target_q = CriticsByHand(self.target_critics, turns, slopes).least
        else:
            compiled = config.compile == "on"
            fixed = mirror(self.critics, flat.views(flat.parameters))
            self.actor_passes = AutogradActor(self.actor, self.actor_adam.gradients, compiled)
            self.critic_passes = AutogradCritics(self.critics, fixed, flat.gradients, compiled)
            target = torch.compile(self.target_critics, dynamic=False) if compiled else self.target_critics
            self.target_q = lambda obs, action: target(obs, action).amin(0)
        return policy

    def trained(self) -> nn.Module:
        """What the actor's optimiser moves."""
        return self.actor

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"actor.": self.actor, "critics.": self.critics}

    # ---- gather

    def explore(self, obs: Obs, mask: Array | None) -> Array:
        return self.distribution.sample_numpy(self.policy.outputs(obs, mask), self.explore_rng)

    def gather(self) -> int:
        if self.actor.encoder.norms:
            self.actor.encoder.observe(self.policy.tensors(self.obs))
        return super().gather()

    # ---- learn

    @torch.no_grad()
    def learn(self, batches: Batch, steps: int) -> Metrics:
        knobs, size = self.knobs, self.knobs.batch_size
        share = factor(knobs.learning_rate_schedule, self.progress.step, self.config.schedule_budget)
        noise = self.noise(steps)
        seen: dict[str, list[Tensor]] = {}
        skipped: list[Tensor] = []
        for i in range(steps):
            self.gradient_steps += 1
            batch = batches if steps == 1 else rows(batches, slice(i * size, (i + 1) * size))
            statistics, bad = self.gradient_step(batch, noise[i], knobs.learning_rate * share)
            skipped.append(bad)
            for tag, value in statistics.items():
                seen.setdefault(tag, []).append(value)
        means = {tag: values[0] if len(values) == 1 else torch.stack(values).mean() for tag, values in seen.items()}
        bad = skipped[0] if steps == 1 else torch.stack(skipped).sum()
        return {**means, NON_FINITE: bad, "train/learning_rate": knobs.learning_rate * share}

    def critics_step(self, batch: Batch, target: Tensor, weight: float, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Towards one `target [batch]` for all critics, by `weight` times the sum over critics of the mean squared
        error. Returns that loss and whether the step was skipped, both 0-d."""
        assert target.shape == batch["reward"].shape, target.shape
        loss = self.critic_passes.learn(batch["obs"], batch["action"], target, weight)
        _, skipped = self.critics_adam.apply(loss, learning_rate)
        return loss, skipped

    # ---- checkpoints

    def targets(self) -> nn.ModuleDict:
        """Networks that follow others, by name."""
        return nn.ModuleDict({"critics": self.target_critics})

    def optimizer(self) -> dict[str, Tensor]:
        """Every optimiser's tensors by name."""
        both = {"actor": self.actor_adam, "critics": self.critics_adam}
        return {f"{name}.{key}": tensor for name, adam in both.items() for key, tensor in adam.state_dict().items()}

    def networks(self) -> dict[str, Section]:
        return {
            "model": self.actor.state_dict(),
            "critics": self.critics.state_dict(),
            "targets": self.targets().state_dict(),
            "optimizer": self.optimizer(),
            "count": {"gradient_steps": self.gradient_steps},
        }

    def load_networks(self, state: Mapping[str, Section]) -> None:
        load_module(self.actor, state["model"])
        load_module(self.critics, state["critics"])
        load_module(self.targets(), state["targets"])
        restore(self.optimizer(), state["optimizer"])
        self.gradient_steps = int(state["count"]["gradient_steps"])

    @classmethod
    def policy_for(cls, config: TrainConfig, env: BatchEnv, device: torch.device) -> Policy:
        return build_policy(cls, config, env, device)


def build_policy(agent: type[Continuous], config: TrainConfig, env: BatchEnv, device: torch.device) -> Policy:
    """A freshly initialised policy for `env`, or the line that says which agents could act in it."""
    knobs = config.agent
    distribution = agent.distribution_of(bounded_box(env.action_space, config), knobs)
    with seeded(config.seed):
        actor = Actor(
            env.leaves,
            distribution.outputs,
            list(knobs.net_arch),
            knobs.activation,
            config.env.normalize_observation,
        )
    return Policy(actor.to(device), distribution, env.action_space)


def bounded_box(space: gym.Space[Any], config: TrainConfig) -> tuple[int, ...]:
    """The shape of a Box of floats with finite bounds; any other action space is a RequestError."""
    if not isinstance(space, gym.spaces.Box) or "sac" not in agents_for(space):
        why = "spreads its actions between the finite bounds of a Box of floats"
        raise refused(config.agent.name, why, config.env.id, space)
    return space.shape


def rows(batch: Batch, which: slice) -> Batch:
    """The transitions `which` of every tensor in the batch."""
    return {
        name: None if x is None else {leaf: y[which] for leaf, y in x.items()} if isinstance(x, dict) else x[which]
        for name, x in batch.items()
    }
