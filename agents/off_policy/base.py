"""Off-policy base of DQN, SAC and TD3: act, store transitions, and take gradient steps in a fixed ratio to them.

One update gathers `train_freq` transitions with the current policy and then takes the gradient steps due,
`gradient_steps` for each `train_freq` transitions, on samples drawn all at once. The ratio does not depend on the
number of environments.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
import torch

from rlgym.agents.common.base import Agent
from rlgym.agents.off_policy import saved_replay
from rlgym.agents.off_policy.prioritized import Priorities
from rlgym.agents.off_policy.replay import Batch, Replay
from rlgym.common.rng import generator_state, load_generator_state
from rlgym.errors import RequestError
from rlgym.learner import NON_FINITE, REPLAY, Metrics, Section
from rlgym.run_folder.records import count

if TYPE_CHECKING:
    from rlgym.agents.common.policy import Policy
    from rlgym.config.schema import TrainConfig
    from rlgym.envs.spaces import Array, Obs

BYTES_AT_ONCE = 256e6
"""Size limit of samples drawn at once."""


class OffPolicy(Agent):
    """An off-policy learner; a subclass builds networks, explores, and takes gradient steps.

    Its knobs have buffer_size, batch_size, learning_starts, train_freq, gradient_steps (-1: one for each transition),
    gamma, n_step (1 where it has none) and save_replay. One with prioritised replay sets `priorities`.
    """

    priorities: Priorities | None = None

    def __init__(self, config: TrainConfig) -> None:
        if config.env.normalize_reward:
            raise RequestError(
                f"env.normalize_reward=true: agent={config.agent.name} learns from old rewards beside new ones, which "
                "a moving scale would tell apart; env.normalize_reward=false would do"
            )
        super().__init__(config, repays_compiling=self.repays_compiling(config))
        self.knobs: Any = config.agent
        knobs = self.knobs
        self.n_step: int = getattr(knobs, "n_step", 1)
        space = self.env.action_space
        self.replay = Replay(  # before the networks, which take longer to build: memory may not suffice
            knobs.buffer_size,
            self.env,
            space.shape or (),
            torch.float32 if isinstance(space, gym.spaces.Box) else torch.int64,
            self.device,
            stack=config.env.frame_stack,
        )
        self.policy = self.build()
        ratio = knobs.gradient_steps / knobs.train_freq if knobs.gradient_steps >= 0 else 1.0
        self.gradient_steps_each = ratio
        """Gradient steps per transition."""
        self.pending_gradient_steps = 0.0
        self.learns_from: int = knobs.learning_starts
        """Step from which gradient steps are taken; a resume without its replay sets it later."""
        self.exactness["replay"] = saved_replay.promise(knobs.save_replay, saved_replay.refill(knobs))
        self.explore_rng = np.random.default_rng(config.seed + 1)
        self.replay_rng = torch.Generator(self.device).manual_seed(config.seed + 2)
        self.obs: Obs = self.env.reset(config.seed)
        self.mask = self.env.action_mask
        self.replay.start(self.obs, self.mask)

    # ---- what a subclass defines

    @abstractmethod
    def build(self) -> Policy:
        """Build networks and optimisers, seeded by the run's seed; returns the policy."""

    @abstractmethod
    def explore(self, obs: Obs, mask: Array | None) -> Array:
        """Actions `[envs, *action]` as the replay stores them, before `policy.to_env`."""

    @abstractmethod
    def learn(self, batches: Batch, steps: int) -> Metrics:
        """Take `steps` gradient steps on `[steps * batch_size, ...]` transitions, in order. Returns mean metrics, and
        under NON_FINITE the number of skipped steps."""

    @abstractmethod
    def networks(self) -> dict[str, Section]:
        """The checkpoint's sections of networks, targets and optimisers; "model" is what `load` needs."""

    @abstractmethod
    def load_networks(self, state: Mapping[str, Section]) -> None: ...

    @staticmethod
    def repays_compiling(config: TrainConfig) -> bool:
        return False

    # ---- gather

    def update(self) -> Metrics:
        knobs, progress = self.knobs, self.progress
        gathered = 0
        while gathered < knobs.train_freq:
            gathered += self.gather()
        metrics: Metrics = {}
        if progress.step > self.learns_from and self.replay.size(self.n_step) > 0:
            self.pending_gradient_steps += gathered * self.gradient_steps_each
            steps = int(self.pending_gradient_steps)
            self.pending_gradient_steps -= steps
            if steps:
                metrics = self.train(steps)
        progress.update += 1
        return metrics | self.recent.metrics()

    def gather(self) -> int:
        """Step all environments once and store the transitions; returns their number."""
        random = self.progress.step < self.knobs.learning_starts
        action = self.random_actions(self.mask) if random else self.explore(self.obs, self.mask)
        step = self.env.step(self.policy.to_env(action))
        self.replay.add(action, step)
        self.obs, self.mask = step.obs, step.action_mask
        if step.episodes:
            self.recent.add(step.episodes)
        count = self.env.num_envs if step.valid is None else int(step.valid.sum())
        self.progress.step += count
        return count

    def random_actions(self, mask: Array | None) -> Array:
        """Uniform over the legal actions, or over a Box in the distribution's scale."""
        space, envs = self.env.action_space, self.env.num_envs
        if isinstance(space, gym.spaces.Discrete):
            if mask is None:
                return self.explore_rng.integers(space.n, size=envs)
            noise = np.where(mask, self.explore_rng.random(mask.shape), -1.0)
            legal: Array = noise.argmax(-1)
            return legal
        return self.explore_rng.uniform(-1.0, 1.0, (envs, *(space.shape or ()))).astype(np.float32)

    # ---- learn

    def train(self, steps: int) -> Metrics:
        """Draw the samples of `steps` gradient steps, as many at once as BYTES_AT_ONCE allows, and learn from them."""
        batch = self.knobs.batch_size
        bytes_each = 2 * sum(x[0, 0].numel() * x.element_size() * self.replay.stack for x in self.replay.obs.values())
        at_once = max(1, int(BYTES_AT_ONCE / (bytes_each * batch)))
        found: list[tuple[int, Metrics]] = []
        while steps:
            part = min(steps, at_once)
            found.append((part, self.learn(self.sample(part * batch), part)))
            steps -= part
        if len(found) == 1:
            return found[0][1]
        merged: Metrics = {}
        for tag in dict.fromkeys(tag for _, metrics in found for tag in metrics):
            having = [(part, metrics[tag]) for part, metrics in found if tag in metrics]  # TD3's actor may pause
            total = sum(part for part, _ in having)
            weighted = [value * (1 if tag == NON_FINITE else part / total) for part, value in having]
            merged[tag] = sum(weighted[1:], weighted[0])
        return merged

    def sample(self, count: int) -> Batch:
        places = self.replay.draw(count, self.replay_rng, self.n_step)
        return self.replay.gather(places, self.n_step, self.knobs.gamma)

    # ---- checkpoints

    def state_dict(self) -> dict[str, Section]:
        state = {
            **self.networks(),
            **self.base_state(),
            "rng": {"explorer": generator_state(self.explore_rng), "drawer": generator_state(self.replay_rng)},
            "pace": {"earned": self.pending_gradient_steps, "learns_from": self.learns_from},
        }
        if self.knobs.save_replay:
            priorities = {} if self.priorities is None else self.priorities.state_dict()
            state[REPLAY] = self.replay.state_dict() | priorities
        return state

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        self.check_base_state(state)
        self.load_networks(state)
        load_generator_state(self.explore_rng, state["rng"]["explorer"])
        load_generator_state(self.replay_rng, state["rng"]["drawer"])
        self.pending_gradient_steps = count(state["pace"]["earned"], 1)
        self.learns_from = cast(int, state["pace"]["learns_from"])
        if REPLAY in state:
            self.replay.load_state_dict(state[REPLAY])
            if self.priorities is not None:
                self.priorities.load_state_dict(state[REPLAY])
        self.obs, self.mask = self.load_base_state(state), self.env.action_mask
        if REPLAY in state:
            if self.env.restore_report:
                self.replay.interrupt(self.obs, self.mask)
        else:
            self.replay.start(self.obs, self.mask)
            refill = saved_replay.refill(self.knobs)
            self.learns_from = max(self.learns_from, self.progress.step + refill)
            self.notices.append(saved_replay.missing(refill))
