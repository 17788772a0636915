"""Deep Q-learning (Mnih et al. 2015, doi:10.1038/nature14236) and its published extensions, each a hyper-parameter;
`agent=rainbow` is all of them (Hessel et al. 2018, arXiv:1710.02298).

Acts epsilon-greedily, stores transitions in a replay, and regresses Q(s, a) on

    r + gamma * max_a' Q_target(s', a')            0 after termination, not after truncation

by the Huber loss. `double` lets Q choose a' (van Hasselt et al. 2016, arXiv:1509.06461), `n_step` sums n rewards first,
`prioritized` draws by error, `dueling` and `noisy` change the network, and with `distributional` the distribution of a
return or its quantiles are learned in place of its mean.

The target network changes only between updates, so its values of all next states of an update's gradient steps come
from a few large forward passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.agents.common.action_spaces import refused
from rlgym.agents.common.base import seeded
from rlgym.agents.common.distributions import mask_logits
from rlgym.agents.off_policy.base import OffPolicy
from rlgym.agents.off_policy.prioritized import Priorities, annealed
from rlgym.agents.off_policy.replay import Batch
from rlgym.agents.on_policy.rollout import ROWS_AT_ONCE
from rlgym.agents.q_learning.epsilon_greedy import EpsilonGreedy, annealed_epsilon
from rlgym.agents.q_learning.gradient import Autograd, ByHand, Passes
from rlgym.agents.q_learning.networks import QNetwork, QPolicy
from rlgym.agents.q_learning.targets import LOSSES, discounted, of_actions, project
from rlgym.common.rng import generator_state, load_generator_state
from rlgym.errors import RequestError
from rlgym.learner import NON_FINITE, Metrics, Section
from rlgym.optim.adam import FlatAdam
from rlgym.optim.flat_params import Flat
from rlgym.run_folder.records import count
from rlgym.training.load_module import load_module
from rlgym.training.schedules import factor

if TYPE_CHECKING:
    from rlgym.agents.configs.q_learning import DQNConfig
    from rlgym.config.schema import TrainConfig
    from rlgym.envs.batch import BatchEnv
    from rlgym.envs.spaces import Array, Obs


class DQN(OffPolicy):
    """The learner, under the names dqn and rainbow."""

    knobs: DQNConfig
    policy: QPolicy

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if self.knobs.prioritized:
            self.priorities = Priorities(self.replay, self.knobs.priority_alpha)

    def build(self) -> QPolicy:
        knobs, config = self.knobs, self.config
        if knobs.buffer_size // self.env.num_envs < knobs.n_step:
            raise RequestError(
                f"agent.buffer_size={knobs.buffer_size} holds no agent.n_step={knobs.n_step} transitions of each of "
                f"env.num_envs={self.env.num_envs} environments; raise it"
            )
        policy = self.policy_for(config, self.env, self.device)
        self.network = policy.network
        self.target = deepcopy(self.network).requires_grad_(False)
        self.target.encoder.norms = self.network.encoder.norms  # both normalise observations alike
        self.optimizer = FlatAdam(self.network, knobs.max_grad_norm, knobs.adam_eps)
        self.target_parameters = Flat([dict(self.target.named_parameters())], aligned=1).parameters
        self.target_at = 0
        """The step of the last update of the target network."""
        policy.refresh()
        self.passes: Passes
        if policy.numpy_actor is None or self.network.encoder.learns or knobs.noisy or config.compile == "on":
            self.passes = Autograd(self.network, self.optimizer.gradients, compiled=config.compile == "on")
        else:
            self.passes = ByHand(self.network)
            self.target_by_hand = ByHand(self.target)
        self.noise = torch.Generator(self.device).manual_seed(config.seed + 3)
        return policy

    # ---- act

    @property
    def epsilon(self) -> float:
        knobs = self.knobs
        return annealed_epsilon(
            knobs.exploration_initial_eps,
            knobs.exploration_final_eps,
            knobs.exploration_fraction,
            self.progress.step,
            self.config.schedule_budget,
        )

    def update(self) -> Metrics:
        return {**super().update(), "rollout/exploration_rate": self.epsilon}

    def gather(self) -> int:
        count = super().gather()
        if self.config.env.normalize_observation:
            self.network.encoder.observe(self.policy.tensors(self.obs))
        return count

    def explore(self, obs: Obs, mask: Array | None) -> Array:
        distribution = cast(EpsilonGreedy, self.policy.distribution)
        distribution.epsilon = self.epsilon
        if self.knobs.noisy:
            outputs = self.policy.noisy_outputs(obs, mask, self.explore_rng, self.noise)
        else:
            outputs = self.policy.outputs(obs, mask)
        return distribution.sample_numpy(outputs, self.explore_rng)

    # ---- learn

    def sample(self, count: int) -> Batch:
        if self.priorities is None:
            return super().sample(count)
        knobs = self.knobs
        beta = annealed(knobs.priority_beta, self.progress.step, self.config.schedule_budget)
        places, weights = self.priorities.draw(count, knobs.batch_size, self.replay_rng, beta, self.n_step)
        batch = self.replay.gather(places, self.n_step, knobs.gamma)
        return {**batch, "places": places, "weights": weights}

    @torch.no_grad()
    def learn(self, batches: Batch, steps: int) -> Metrics:
        knobs, passes = self.knobs, self.passes
        self.move_target()
        learning_rate = knobs.learning_rate * factor(
            knobs.learning_rate_schedule, self.progress.step, self.config.schedule_budget
        )
        loss_of = LOSSES[knobs.distributional]
        rows, actions, atoms = knobs.batch_size, self.network.actions, self.network.atoms
        action, weights = batches["action"], batches.get("weights")
        # The loss is the (weighted) mean over the minibatch, of the taken action's outputs only.
        share = torch.full_like(batches["reward"], 1 / rows) if weights is None else weights / rows
        shares = (F.one_hot(action, actions) * share.unsqueeze(1)).unsqueeze(2).split(rows)
        indices = action.view(-1, 1, 1).expand(-1, 1, atoms).split(rows)
        obs = passes.split(batches["obs"], rows)
        # Noise differs in each gradient step, and with `double` each step selects the next actions itself: targets are
        # then computed step by step.
        next_q = None if knobs.noisy else self.next_q(batches["next_obs"])
        step_by_step = knobs.noisy or knobs.double
        targets = () if step_by_step else self.td_target(batches, next_q, slice(None)).split(rows)
        errors, predictions, norms, skipped = [], [], [], []
        for step in range(steps):
            if step_by_step:
                target = self.td_target(batches, next_q, slice(step * rows, (step + 1) * rows))
            else:
                target = targets[step]
            noise = self.network.draw(self.noise) if knobs.noisy else None
            prediction = passes.forward(obs[step], noise).gather(1, indices[step]).squeeze(1)
            error, slope = loss_of(prediction, target)
            passes.backward(shares[step] * slope.unsqueeze(1))
            norm, bad = self.optimizer.apply(error.sum(), learning_rate)
            errors.append(error)
            predictions.append(prediction)
            norms.append(norm)
            skipped.append(bad)
        error, predicted = torch.cat(errors), torch.cat(predictions)
        if self.priorities is not None:
            self.priorities.update(batches["places"], self.priority(error))
        if knobs.distributional == "c51":
            predicted = predicted.softmax(-1) @ self.network.support
        return {
            "train/loss": (error * share).sum() / steps,
            "train/q_value_mean": predicted.mean(),
            "train/grad_norm": torch.stack(norms).mean(),
            "train/learning_rate": learning_rate,
            NON_FINITE: torch.stack(skipped).sum(),
        }

    def priority(self, error: Tensor) -> Tensor:
        """Priorities `[batch]` from unweighted losses `[batch]`: |TD error| with the Huber loss, else the loss itself
        (Hessel et al. 2018, section 3)."""
        if self.knobs.distributional != "none":
            return error
        return torch.where(error < 0.5, (2 * error).sqrt(), error + 0.5)  # inverse of the Huber loss

    def move_target(self) -> None:
        """Apply the k updates of the target network now due as one: the online network did not change between them, so
        k Polyak updates with tau equal one with 1 - (1 - tau)^k."""
        knobs = self.knobs
        every = knobs.target_update_interval
        times = self.progress.step // every - self.target_at // every
        self.target_at = self.progress.step
        if times:
            self.target_parameters.lerp_(self.optimizer.parameters, 1 - (1 - knobs.tau) ** times)

    def next_q(self, next_obs: dict[str, Tensor]) -> Tensor:
        """The target network's outputs for all next states, `[batch, actions, atoms]`."""
        if isinstance(self.passes, ByHand):
            return self.target_by_hand.values_of(next_obs)
        parts = zip(*(x.split(ROWS_AT_ONCE) for x in next_obs.values()), strict=True)
        return torch.cat([self.target(dict(zip(next_obs, part, strict=True))) for part in parts])

    def td_target(self, batches: Batch, next_q: Tensor | None, part: slice) -> Tensor:
        """TD targets of the transitions `part`, `[batch, atoms]`; probabilities with c51.

        `next_q`: the target network's outputs for all next states; None: computed here, with fresh noise.
        """
        next_obs = {name: x[part] for name, x in batches["next_obs"].items()}
        mask = None if batches["next_mask"] is None else batches["next_mask"][part]
        outputs = self.target(next_obs, self.target.draw(self.noise)) if next_q is None else next_q[part]
        choosing = outputs
        if self.knobs.double:
            (x,) = self.passes.split(next_obs, len(outputs))
            choosing = self.passes.forward(x, self.network.draw(self.noise))
        best = mask_logits(self.network.expected(choosing), mask).argmax(-1)
        outputs = of_actions(outputs, best)
        reward, discount = batches["reward"][part], batches["discount"][part]
        if self.knobs.distributional == "c51":
            return project(outputs.softmax(-1), reward, discount, self.network.support)
        return discounted(outputs, reward, discount)

    # ---- checkpoints

    def networks(self) -> dict[str, Section]:
        return {
            "model": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedules": {"target_at": self.target_at, "noise": generator_state(self.noise)},
        }

    def load_networks(self, state: Mapping[str, Section]) -> None:
        load_module(self.network, state["model"])
        load_module(self.target, state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.target_at = count(state["schedules"]["target_at"], cast(int, state["progress"]["step"]))
        load_generator_state(self.noise, state["schedules"]["noise"])

    @classmethod
    def policy_for(cls, config: TrainConfig, env: BatchEnv, device: torch.device) -> QPolicy:
        knobs: DQNConfig = config.agent
        return q_policy(
            config,
            env,
            device,
            dueling=knobs.dueling,
            noisy_std=knobs.noisy_std if knobs.noisy else None,
            support=torch.linspace(knobs.v_min, knobs.v_max, knobs.atoms) if knobs.distributional == "c51" else None,
            quantiles=knobs.quantiles if knobs.distributional == "qr" else None,
        )


def q_policy(config: TrainConfig, env: BatchEnv, device: torch.device, **network: Any) -> QPolicy:
    """A freshly initialised policy for `env`, seeded by the run's seed without touching torch's global generator.

    `network`: further arguments of QNetwork.
    """
    knobs = config.agent
    actions = number_of_actions(env, knobs.name)
    hidden, normalize = list(knobs.net_arch), config.env.normalize_observation
    with seeded(config.seed):
        made = QNetwork(env.leaves, actions, hidden, knobs.activation, normalize=normalize, **network)
    return QPolicy(made.to(device), EpsilonGreedy(actions, knobs.exploration_final_eps), env.action_space)


def number_of_actions(env: BatchEnv, agent: str) -> int:
    """The size of a Discrete action space. RequestError, with agents that would do, for any other."""
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    raise refused(agent, "values each action of a Discrete space", env.id, space)
