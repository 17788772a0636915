"""Parallel Q-learning (Gallici et al. 2024, arXiv:2407.04811): no replay, no target network.

Gathers `n_steps` steps of `num_envs` parallel environments epsilon-greedily, and for `n_epochs` passes over them in
shuffled minibatches minimises

    1/2 (Q(s, a) - R)^2,    R[t] = r[t] + gamma * (lambda * R[t + 1] + (1 - lambda) * max_a Q(s[t + 1], a))

with R from the network that gathered (Peng's Q(lambda)). Layer normalisation after each hidden layer keeps this from
diverging. Differences from the paper's code: Adam in place of rectified Adam; a truncated episode is bootstrapped from
its final observation; with images, layers after the convolutions are normalised, the convolutions are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from rlgym.agents.common.distributions import mask_logits
from rlgym.agents.dqn import q_policy
from rlgym.agents.on_policy.base import OnPolicy, Optimizer
from rlgym.agents.on_policy.rollout import ROWS_AT_ONCE, Batch
from rlgym.agents.q_learning.epsilon_greedy import EpsilonGreedy, annealed_epsilon
from rlgym.agents.q_learning.networks import QNetwork, QPolicy
from rlgym.agents.q_learning.targets import of_actions
from rlgym.errors import RequestError
from rlgym.learner import NON_FINITE, Metrics
from rlgym.optim.adam import FlatAdam

if TYPE_CHECKING:
    from rlgym.agents.configs.q_learning import PQNConfig
    from rlgym.config.schema import TrainConfig
    from rlgym.envs.batch import BatchEnv

STATISTICS = ("train/loss", "train/q_value_mean")


class PQN(OnPolicy):
    """The learner: `update()` is one rollout and its epochs."""

    knobs: PQNConfig
    network: QNetwork

    def check(self, config: TrainConfig) -> None:
        knobs: PQNConfig = config.agent
        rows = knobs.n_steps * config.env.num_envs
        if knobs.batch_size > rows:
            raise RequestError(
                f"agent.batch_size={knobs.batch_size} is more than a rollout holds: agent.n_steps={knobs.n_steps} x "
                f"env.num_envs={config.env.num_envs} = {rows}; lower it or raise one of these"
            )

    def build(self) -> QPolicy:
        return self.policy_for(self.config, self.env, self.device)

    def build_optimizer(self) -> Optimizer:
        return FlatAdam(self.network, self.knobs.max_grad_norm, self.knobs.adam_eps)

    @property
    def gae_lambda(self) -> float:
        # Advantages by GAE over V = max Q, plus V, are the lambda-returns above.
        return self.knobs.q_lambda

    # ---- gather

    def update(self) -> Metrics:
        knobs = self.knobs
        epsilon = annealed_epsilon(
            knobs.exploration_initial_eps,
            knobs.exploration_final_eps,
            knobs.exploration_fraction,
            self.progress.step,
            self.config.schedule_budget,
        )
        cast(EpsilonGreedy, self.policy.distribution).epsilon = epsilon
        return {**super().update(), "rollout/exploration_rate": epsilon}

    def evaluate_rollout(
        self, obs: dict[str, Tensor], mask: Tensor | None, action: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        rollout = self.rollout
        time, envs = rollout.reward.shape
        rows = time * envs
        value = torch.empty(rows + envs, device=self.device)
        for at in range(0, rows, ROWS_AT_ONCE):
            part = slice(at, min(at + ROWS_AT_ONCE, rows))
            value[part] = self.best({name: x[part] for name, x in obs.items()}, None if mask is None else mask[part])
        last = {name: x[-1] for name, x in rollout.obs.items()}
        value[rows:] = self.best(last, None if rollout.mask is None else rollout.mask[-1])
        values = value.view(time + 1, envs)
        next_value = values[1:].clone()
        for t, cut, final_obs in rollout.cuts:  # the legal actions of a truncated episode's final state are unknown
            next_value[t, cut] = self.best(self.policy.tensors(final_obs), None)
        return None, values[:-1], next_value

    def best(self, obs: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        """The largest value of a legal action, `[batch]`."""
        return mask_logits(self.network.policy(obs), mask).amax(-1)

    # ---- minimise

    def learn(self, batch: Batch) -> Metrics:
        knobs, learning_rate = self.knobs, self.scheduled("learning_rate")
        seen, norms, skipped = [], [], []
        for _ in range(knobs.n_epochs):
            for minibatch in self.shuffled(batch, knobs.batch_size):
                loss, statistics = self.loss(minibatch)
                norm, bad = self.optimizer.step(loss, learning_rate)
                seen.append(statistics)
                norms.append(norm)
                skipped.append(bad)
        return {
            **dict(zip(STATISTICS, torch.stack(seen).mean(0), strict=True)),
            "train/grad_norm": torch.stack(norms).mean(),
            "train/learning_rate": learning_rate,
            NON_FINITE: torch.stack(skipped).sum(),
        }

    def minibatch_loss(self, batch: Batch, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The loss of one minibatch, 0-d, and its `STATISTICS [2]`."""
        prediction = of_actions(self.network(batch["obs"]), batch["action"]).squeeze(-1)
        assert prediction.shape == batch["target"].shape
        loss = 0.5 * (prediction - batch["target"]).square().mean()
        return loss, torch.stack([loss, prediction.mean()]).detach()

    @classmethod
    def gradient_steps(cls, config: TrainConfig) -> int:
        knobs: PQNConfig = config.agent
        rows = knobs.n_steps * config.env.num_envs
        return cls.rollouts(config) * knobs.n_epochs * -(-rows // knobs.batch_size)

    @classmethod
    def policy_for(cls, config: TrainConfig, env: BatchEnv, device: torch.device) -> QPolicy:
        return q_policy(config, env, device, layer_norm=True)
