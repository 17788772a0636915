"""On-policy base of PPO, A2C and REINFORCE: collect a rollout, compute values and advantages, learn from it once.

An agent's own file has its loss and its steps; environment, rollout, values, advantages and checkpoint are here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import gymnasium as gym
import torch
from torch import Tensor

from rlgym.agents.common.base import Agent, seeded
from rlgym.agents.common.distributions import distribution_for, mask_logits
from rlgym.agents.common.losses import explained_variance
from rlgym.agents.common.networks import ActorCritic
from rlgym.agents.common.policy import Policy
from rlgym.agents.common.returns import gae
from rlgym.agents.on_policy.recurrent import RecurrentActorCritic, RecurrentPolicy
from rlgym.agents.on_policy.rollout import ROWS_AT_ONCE, Batch, Rollout, take
from rlgym.agents.on_policy.sequences import Sequences
from rlgym.common.rng import generator_state, load_generator_state
from rlgym.config.effect import refuse_given
from rlgym.envs.normalize import RewardScaler
from rlgym.errors import RequestError
from rlgym.learner import Metrics, Section
from rlgym.training.load_module import load_module
from rlgym.training.schedules import factor

if TYPE_CHECKING:
    from rlgym.config.schema import TrainConfig
    from rlgym.envs.batch import BatchEnv

GAUSSIAN = ("std", "log_std_init", "squash")
"""Hyper-parameters of Gaussian policies only."""
# Compiling costs 5-13 s on a CPU and saves about 0.3 ms of a small network's gradient step (docs/results.md): it pays
# off twice over from here on.
STEPS_THAT_REPAY_COMPILING = {"cpu": 80_000, "cuda": 10_000}


class Optimizer(Protocol):
    def step(self, loss: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Back-propagates and steps; returns the gradient's norm and whether the step was skipped, both 0-d."""
        ...

    def state_dict(self) -> Section: ...

    def load_state_dict(self, state: Section) -> None: ...


class OnPolicy(Agent):
    """A learner without its loss: `update()` collects one rollout and takes the gradient steps on it.

    Its knobs have n_steps, gamma, learning_rate and its schedule, and those of the networks.
    """

    policy: Any  # Policy, or RecurrentPolicy
    network: Any  # ActorCritic, RecurrentActorCritic, or a subclass's own
    compares_policies = False
    """Whether the loss needs log-probabilities under the policy that acted."""

    def __init__(self, config: TrainConfig) -> None:
        knobs: Any = config.agent
        self.knobs = knobs
        self.check(config)
        recurrent = getattr(knobs, "recurrent", "none") != "none"
        if recurrent and config.compile == "on":
            raise RequestError(
                f"compile=on: sequences of agent.recurrent={knobs.recurrent} change their lengths with each rollout; "
                "compile=off would do"
            )

        def repays(device: torch.device) -> bool:
            steps = STEPS_THAT_REPAY_COMPILING.get(device.type, 1 << 62)
            return not recurrent and self.gradient_steps(config) >= steps

        super().__init__(config, repays)
        if self.env.phantoms and knobs.n_steps < 2:
            raise RequestError(f"agent.n_steps=1: {config.env.id} resets one step late, which needs at least 2")
        self.policy = self.build()
        self.network = self.policy.network
        self.optimizer = self.build_optimizer()
        self.policy.refresh()
        self.rollout = Rollout(knobs.n_steps, self.env, self.policy.distribution, self.device)
        self.scaler = RewardScaler(self.env.num_envs, knobs.gamma) if config.env.normalize_reward else None
        self.sequences: Sequences | None = None
        self.acting = self.policy
        """The policy that acts in training: `policy` itself, or a recurrent policy with the same network and its own
        memory."""
        if recurrent:
            self.acting = RecurrentPolicy(self.network, self.policy.distribution, self.env.action_space)
            self.sequences = Sequences(self.network, self.rollout, self.policy)

        self.sampler = self.policy.sampler(config.seed + 1)
        self.shuffle_rng = torch.Generator(self.device).manual_seed(config.seed + 2)
        self.loss: Callable[..., tuple[Tensor, Tensor]] = self.minibatch_loss
        if config.compile == "on":
            self.loss = torch.compile(self.minibatch_loss, dynamic=bool(self.env.phantoms))
        self.rollout.start(self.env.reset(config.seed), self.env.action_mask)

    # ---- what an agent defines

    def check(self, config: TrainConfig) -> None:
        """RequestError where hyper-parameters contradict each other; called before anything is started."""
        knobs, envs = config.agent, config.env.num_envs
        rows, size = knobs.n_steps * envs, getattr(knobs, "batch_size", 0)
        if size > rows:
            raise RequestError(
                f"agent.batch_size={size} is more than a rollout holds: agent.n_steps={knobs.n_steps} x "
                f"env.num_envs={envs} = {rows}; lower it or raise one of these"
            )

    def build(self) -> Policy:
        """The policy, initialised by the run's seed."""
        return build_policy(self.config, self.env, self.device)

    @abstractmethod
    def build_optimizer(self) -> Optimizer:
        """The optimiser of all the network's parameters."""

    @abstractmethod
    def minibatch_loss(self, batch: Batch, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The loss of one minibatch, 0-d, and its statistics, `[n]`."""

    @abstractmethod
    def learn(self, batch: Batch) -> Metrics:
        """The gradient steps of one update."""

    @classmethod
    def rollouts(cls, config: TrainConfig) -> int:
        """Updates within the budgets."""
        held = int(config.steps // (config.agent.n_steps * config.env.num_envs))
        return held if config.updates is None else min(held, config.updates)

    @classmethod
    def gradient_steps(cls, config: TrainConfig) -> int:
        """Gradient steps within the budgets, which `compile=auto` weighs against the cost of compiling."""
        return cls.rollouts(config)

    @property
    def gae_lambda(self) -> float:
        return float(self.knobs.gae_lambda)

    # ---- gather

    def update(self) -> Metrics:
        if self.sequences is not None:
            self.acting.remember(self.sequences.memory)
        self.recent.add(self.rollout.collect(self.env, self.acting, self.sampler, self.scaler))
        batch = self.batch()
        metrics = self.learn(batch)
        # The running statistics move only now, so that the whole update sees the same scaling.
        self.network.encoder.observe(batch["obs"])
        self.rollout.carry_over()
        self.progress.step += self.rollout.rows
        self.progress.update += 1
        metrics["train/explained_variance"] = explained_variance(batch["old_value"], batch["target"])
        if self.network.log_std is not None:
            metrics["train/std"] = self.network.log_std.detach().exp().mean()
        return metrics | self.recent.metrics()

    def scheduled(self, knob: str) -> float:
        """The scheduled value of a hyper-parameter at this update."""
        share = factor(getattr(self.knobs, f"{knob}_schedule"), self.progress.step, self.config.schedule_budget)
        return float(getattr(self.knobs, knob)) * share

    @torch.no_grad()
    def batch(self) -> Batch:
        """The rollout with values, log-probabilities and advantages, phantom rows removed, flattened to `[batch, ...]`.

        Values and log-probabilities come from one pass over the whole rollout with the policy that gathered it: a few
        large calls instead of one small one at every step.
        """
        rollout = self.rollout
        obs, mask, action = rollout.flat_obs(), rollout.flat_mask(), rollout.action.flatten(0, 1)
        evaluate = self.evaluate_rollout if self.sequences is None else self.sequences.evaluate_rollout
        log_prob, value, next_value = evaluate(obs, mask, action)
        advantage = torch.empty_like(rollout.reward)
        # On a CPU the recursion runs on NumPy views: its calls cost less than torch's on rows this short.
        native: Callable[[Tensor], Any] = Tensor.numpy if self.device.type == "cpu" else Tensor.detach
        gae(
            reward=native(rollout.reward),
            value=native(value),
            next_value=native(next_value),
            terminated=native(rollout.terminated),
            done=native(rollout.done),
            out=native(advantage),
            gamma=self.knobs.gamma,
            lam=self.gae_lambda,
        )
        batch: Batch = {
            "obs": obs,
            "mask": mask,
            "action": action,
            "old_log_prob": log_prob,
            "old_value": value.flatten(),
            "advantage": advantage.flatten(),
            "target": (advantage + value).flatten(),
        }
        return batch if rollout.valid is None else take(batch, rollout.valid.flatten().nonzero().squeeze(-1))

    def evaluate_rollout(
        self, obs: dict[str, Tensor], mask: Tensor | None, action: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Evaluate the rollout's rows `[time * envs, ...]`: log pi(action) `[time * envs]` (None unless the loss needs
        it), V, and V of the state each step led to, both `[time, envs]`."""
        rollout = self.rollout
        time, envs = rollout.reward.shape
        rows = time * envs
        value = torch.empty(rows + envs, device=self.device)
        log_prob = torch.empty(rows, device=self.device) if self.compares_policies else None
        for at in range(0, rows, ROWS_AT_ONCE):
            part = slice(at, min(at + ROWS_AT_ONCE, rows))
            seen = {name: x[part] for name, x in obs.items()}
            if log_prob is None:
                value[part] = self.network.value(seen)
                continue
            outputs, value[part] = self.network(seen)
            logits = mask_logits(outputs, None if mask is None else mask[part])
            log_prob[part], _ = self.policy.distribution.log_prob_entropy(logits, action[part])
        value[rows:] = self.network.value({name: x[-1] for name, x in rollout.obs.items()})
        values = value.view(time + 1, envs)
        next_value = values[1:].clone()
        for t, cut, final_obs in rollout.cuts:
            next_value[t, cut] = self.network.value(self.policy.tensors(final_obs))
        return log_prob, values[:-1], next_value

    # ---- minimise

    def evaluate_actions(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate a minibatch by the current network: log pi(action), entropy and V, each `[batch]`."""
        outputs, value = self.network(batch["obs"], *batch.get("sequence", ()))
        logits = mask_logits(outputs, batch["mask"])
        log_prob, entropy = self.policy.distribution.log_prob_entropy(logits, batch["action"])
        return log_prob, entropy, value

    def whole(self, batch: Batch) -> Batch:
        """The whole rollout as one minibatch."""
        return batch if self.sequences is None else self.sequences.of(batch, range(self.env.num_envs))

    def shuffled(self, batch: Batch, size: int) -> Iterator[Batch]:
        """One pass over the rollout in random minibatches of `size` rows; of a recurrent agent, of `size` / n_steps
        whole environments."""
        if self.sequences is not None:
            order = torch.randperm(self.env.num_envs, generator=self.shuffle_rng, device=self.device)
            for envs in order.split(size // self.knobs.n_steps):
                yield self.sequences.of(batch, envs.tolist())
            return
        rows = len(batch["action"])
        # Shuffle once an epoch and slice: one gather a tensor instead of one a minibatch.
        mixed = take(batch, torch.randperm(rows, generator=self.shuffle_rng, device=self.device))
        for at in range(0, rows, size):
            yield take(mixed, slice(at, at + size))

    # ---- the rest of a learner

    def state_dict(self) -> dict[str, Section]:
        state: dict[str, Section] = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": {"sampler": generator_state(self.sampler), "shuffler": generator_state(self.shuffle_rng)},
            **self.base_state(),
        }
        if self.scaler is not None:
            state["reward_scaler"] = self.scaler.state_dict()
        if self.sequences is not None:
            state["memory"] = {"memory": self.sequences.memory}
        return state

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        self.check_base_state(state)
        load_module(self.network, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        load_generator_state(self.sampler, state["rng"]["sampler"])
        load_generator_state(self.shuffle_rng, state["rng"]["shuffler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["reward_scaler"])
        self.rollout.start(self.load_base_state(state), self.env.action_mask)
        if self.sequences is not None:
            self.sequences.memory.copy_(cast(Tensor, state["memory"]["memory"]))
            if self.env.restore_report:  # episodes restarted: clear the memory
                self.sequences.memory.zero_()

    @classmethod
    def policy_for(cls, config: TrainConfig, env: BatchEnv, device: torch.device) -> Policy:
        return build_policy(config, env, device)


def build_policy(config: TrainConfig, env: BatchEnv, device: torch.device) -> Policy:
    """A freshly initialised policy for `env`, seeded by the run's seed without touching torch's global generator."""
    knobs: Any = config.agent
    distribution = distribution_for(env.action_space, knobs.name, knobs.squash)
    if not isinstance(env.action_space, gym.spaces.Box):
        refuse_given(config, "agent", GAUSSIAN, f"env={env.id} takes {env.action_space}, and no Gaussian")
    shape: dict[str, Any] = {
        "leaves": env.leaves,
        "distribution": distribution,
        "net_arch": list(knobs.net_arch),
        "activation": knobs.activation,
        "std": knobs.std,
        "log_std_init": knobs.log_std_init,
        "normalize": config.env.normalize_observation,
    }
    with seeded(config.seed):
        if knobs.recurrent == "none":
            return Policy(ActorCritic(**shape).to(device), distribution, env.action_space)
        network = RecurrentActorCritic(cell=knobs.recurrent, hidden_size=knobs.hidden_size, **shape)
        return RecurrentPolicy(network.to(device), distribution, env.action_space)
