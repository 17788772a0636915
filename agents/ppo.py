"""Proximal Policy Optimization (Schulman et al. 2017, arXiv:1707.06347).

Gathers `n_steps` steps of `num_envs` parallel environments with the current policy; estimates advantages by GAE; then,
for `n_epochs` passes over the rollout in shuffled minibatches, minimises

    clipped surrogate - ent_coef * entropy + vf_coef * value loss

with Adam, the gradient's norm clipped. Differences from the paper are those that every strong implementation has (Huang
et al. 2022, "The 37 Implementation Details of PPO") plus one: a truncated episode is bootstrapped from its final
observation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from rlgym.agents.distributions import distribution_for, mask_logits
from rlgym.agents.flat_adam import FlatAdam
from rlgym.agents.losses import approximate_kl, clipped_surrogate, explained_variance, value_loss
from rlgym.agents.networks import ActorCritic
from rlgym.agents.policy import Policy
from rlgym.agents.returns import gae
from rlgym.agents.rollout import RecentEpisodes, Rollout
from rlgym.device import pick_device, settle
from rlgym.envs.episodes import evaluate_policy, fresh_seed
from rlgym.envs.make import make_env
from rlgym.envs.normalize import RewardScaler
from rlgym.envs.video import record, require_frames
from rlgym.errors import RequestError
from rlgym.learner import NON_FINITE, Evaluation, Metrics, Progress, Section
from rlgym.random_state import generator_state, load_generator_state
from rlgym.schedules import factor
from rlgym.state import load_module

if TYPE_CHECKING:
    from rlgym.agents.config import PPOConfig
    from rlgym.config import TrainConfig
    from rlgym.envs.batch import BatchEnv

Batch = dict[str, Any]
"""Minibatch or whole rollout, flattened: obs (leaf -> [batch, *leaf]), action, old_log_prob, old_value, advantage,
target, each [batch, ...], and mask [batch, n] or None."""

STATISTICS = (
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
    "train/clip_fraction",
    "train/loss",
)
# Compiling costs 5-13 s on a CPU and saves about 0.3 ms of a small network's gradient step (docs/results.md): it repays
# itself twice over from here on.
STEPS_THAT_REPAY_COMPILING = {"cpu": 80_000, "cuda": 10_000}
ROWS_AT_ONCE = 8_192  # of one forward pass without gradients: bounds memory, images included


class PPO:
    """The learner: `update()` is one rollout and its epochs."""

    unit: Literal["steps", "moves", "tokens"] = "steps"
    monitor: tuple[str, Literal["max", "min"]] = ("eval/mean_reward", "max")

    def __init__(self, config: TrainConfig) -> None:
        """Starts the environments and settles the config's automatic choices (backend, device, threads, compile)."""
        self.config = config
        knobs: PPOConfig = config.agent
        self.knobs = knobs
        rows = knobs.n_steps * config.env.num_envs
        if knobs.batch_size > rows:
            raise RequestError(
                f"agent.batch_size={knobs.batch_size} is more than a rollout holds: agent.n_steps={knobs.n_steps} x "
                f"env.num_envs={config.env.num_envs} = {rows}; lower it or raise one of these"
            )
        if config.evaluate.video:
            require_frames(config.env)
        self.env = make_env(config.env)
        config.env.backend = self.env.backend
        images = any(leaf.kind == "image" for leaf in self.env.leaves)
        self.device = device = pick_device(config.device, heavy=images)
        repays = self.gradient_steps(config) >= STEPS_THAT_REPAY_COMPILING.get(device.type, 1 << 62)
        settle(config, device, repays, threads=(os.cpu_count() or 1) if images else 1)  # two slow a small network down
        if self.env.phantoms and knobs.n_steps < 2:
            raise RequestError(f"agent.n_steps=1: {config.env.id} resets one step late, which needs at least 2")
        self.policy = build_policy(config, self.env, device)
        self.network = self.policy.network
        self.optimizer = FlatAdam(self.network, knobs.max_grad_norm, knobs.adam_eps)
        self.policy.refresh()
        self.rollout = Rollout(knobs.n_steps, self.env, self.policy.distribution, device)
        self.scaler = RewardScaler(self.env.num_envs, knobs.gamma) if config.env.normalize_reward else None
        self.recent = RecentEpisodes()
        self.progress = Progress()
        self.notices = self.env.notices
        self.facts: dict[str, Any] = {}
        self.arithmetic: tuple[float, float] | None = None
        same = "exact, with the recorded thread count" if device.type == "cpu" else "to rounding: GPUs add in any order"
        self.exactness = {"environment": self.env.restores, "arithmetic": same}

        self.sampler = self.policy.sampler(config.seed + 1)
        self.shuffler = torch.Generator(device).manual_seed(config.seed + 2)
        self.loss: Callable[..., tuple[Tensor, Tensor]] = self.minibatch_loss
        if config.compile == "on":
            self.loss = torch.compile(self.minibatch_loss, dynamic=bool(self.env.phantoms))
        self.rollout.start(self.env.reset(config.seed), self.env.action_mask)
        self._evaluation_env: BatchEnv | None = None
        self._verified = False

    def furnish(self, folder: Path) -> dict[str, str]:
        return {}

    # ---- gather

    def update(self) -> Metrics:
        knobs, step, total = self.knobs, self.progress.step, self.config.schedule_budget
        learning_rate = knobs.learning_rate * factor(knobs.learning_rate_schedule, step, total)
        clip = knobs.clip_range * factor(knobs.clip_range_schedule, step, total)
        ent_coef = knobs.ent_coef * factor(knobs.ent_coef_schedule, step, total)

        self.recent.add(self.rollout.collect(self.env, self.policy, self.sampler, self.scaler))
        batch = self.batch()
        statistics, withheld, norm = self.epochs(batch, learning_rate, clip, ent_coef)
        # Only now do the observations' statistics move: the whole update saw one and the same scaling.
        self.network.encoder.observe(batch["obs"])
        self.rollout.carry_over()
        self.progress.step += self.rollout.rows
        self.progress.update += 1

        metrics: Metrics = dict(zip(STATISTICS, statistics, strict=True))
        metrics |= {
            NON_FINITE: withheld,
            "train/grad_norm": norm,
            "train/learning_rate": learning_rate,
            "train/clip_range": clip,
            "train/explained_variance": explained_variance(batch["old_value"], batch["target"]),
        }
        if self.network.log_std is not None:
            metrics["train/std"] = self.network.log_std.detach().exp().mean()
        return metrics | self.recent.metrics()

    @torch.no_grad()
    def batch(self) -> Batch:
        """The rollout with values, log-probabilities and advantages, its real rows flattened to `[batch, ...]`.

        Values and log-probabilities come from one pass over the whole rollout with the policy that gathered it: a few
        large calls instead of one small one at every step.
        """
        rollout, knobs = self.rollout, self.knobs
        time, envs = rollout.reward.shape
        obs, mask, action = rollout.flat_obs(), rollout.flat_mask(), rollout.action.flatten(0, 1)
        rows = time * envs
        value = torch.empty(rows + envs, device=self.device)
        log_prob = torch.empty(rows, device=self.device)
        for at in range(0, rows, ROWS_AT_ONCE):
            part = slice(at, min(at + ROWS_AT_ONCE, rows))
            outputs, value[part] = self.network({name: x[part] for name, x in obs.items()})
            logits = mask_logits(outputs, None if mask is None else mask[part])
            log_prob[part], _ = self.policy.distribution.log_prob_entropy(logits, action[part])
        value[rows:] = self.network.value({name: x[-1] for name, x in rollout.obs.items()})
        values = value.view(time + 1, envs)
        next_value = values[1:].clone()
        for t, cut, final_obs in rollout.cuts:
            next_value[t, cut] = self.network.value(self.policy.tensors(final_obs))

        advantage = torch.empty_like(rollout.reward)
        # The same recursion on a CPU's arrays: NumPy's calls cost less than torch's on rows this short.
        native: Callable[[Tensor], Any] = Tensor.numpy if self.device.type == "cpu" else Tensor.detach
        gae(
            reward=native(rollout.reward),
            value=native(values[:-1]),
            next_value=native(next_value),
            terminated=native(rollout.terminated),
            done=native(rollout.done),
            out=native(advantage),
            gamma=knobs.gamma,
            lam=knobs.gae_lambda,
        )
        batch: Batch = {
            "obs": obs,
            "mask": mask,
            "action": action,
            "old_log_prob": log_prob,
            "old_value": value[:rows],
            "advantage": advantage.flatten(),
            "target": (advantage + values[:-1]).flatten(),
        }
        return batch if rollout.valid is None else take(batch, rollout.valid.flatten().nonzero().squeeze(-1))

    # ---- minimise

    def minibatch_loss(self, batch: Batch, clip: float, ent_coef: float) -> tuple[Tensor, Tensor]:
        """The loss of one minibatch, 0-d, and its `STATISTICS`, `[6]`."""
        knobs = self.knobs
        outputs, value = self.network(batch["obs"])
        logits = mask_logits(outputs, batch["mask"])
        log_prob, entropy = self.policy.distribution.log_prob_entropy(logits, batch["action"])
        advantage = batch["advantage"]
        if knobs.normalize_advantage and len(advantage) > 1:  # one row has no deviation
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
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
        """All gradient steps of one update. Returns the mean `STATISTICS [6]`, how many steps were withheld, and the
        last gradient's norm."""
        knobs = self.knobs
        rows = len(batch["action"])
        coefficients: tuple[Any, Any] = (clip, ent_coef)
        if self.config.compile == "on":  # as tensors: a number that a schedule moves would be compiled anew
            coefficients = (torch.tensor(clip, device=self.device), torch.tensor(ent_coef, device=self.device))
        seen: list[Tensor] = []
        withheld = torch.zeros((), device=self.device)
        norm = withheld
        for _ in range(knobs.n_epochs):
            # Shuffle once an epoch and slice: one gather a tensor instead of one a minibatch.
            shuffled = take(batch, torch.randperm(rows, generator=self.shuffler, device=self.device))
            for at in range(0, rows, knobs.batch_size):
                minibatch = take(shuffled, slice(at, at + knobs.batch_size))
                loss, statistics = self.loss(minibatch, *coefficients)
                norm, bad = self.optimizer.step(loss, learning_rate)
                withheld = withheld + bad
                seen.append(statistics)
            if knobs.target_kl is not None and seen[-1][3] > 1.5 * knobs.target_kl:
                break
        return torch.stack(seen).mean(0), withheld, norm

    # ---- the rest of a learner

    def evaluate(self) -> Evaluation:
        config = self.config
        if self._evaluation_env is None:
            self._evaluation_env = make_env(config.env, num_envs=min(config.evaluate.episodes, config.env.num_envs))
        seed = fresh_seed(config.seed, self.progress.step)
        found = evaluate_policy(self.policy, self._evaluation_env, config.evaluate.episodes, seed)
        if config.evaluate.video:

            def film(path: Path) -> tuple[np.ndarray, int]:
                video = record(config.env, self.policy.act, 1, seed, path)
                return video.frames, video.fps

            found.videos["eval/episode"] = film
        return found

    def histograms(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            found[f"parameters/{name}"] = parameter.detach()
            if parameter.grad is not None:
                found[f"gradients/{name}"] = parameter.grad
        return found

    def state_dict(self) -> dict[str, Section]:
        if not self._verified:  # once, on a real episode: that a fresh environment can be brought to where this one is
            self._verified = True
            self.env.verify_restores()
            self.exactness["environment"] = self.env.restores
        state: dict[str, Section] = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": {"sampler": generator_state(self.sampler), "shuffler": generator_state(self.shuffler)},
            "environment": self.env.state_dict(),
            "progress": {
                "step": self.progress.step,
                "update": self.progress.update,
                "num_envs": self.env.num_envs,
                "recent": [list(episode) for episode in self.recent.episodes],
            },
        }
        if self.scaler is not None:
            state["reward_scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        running = state["progress"]["num_envs"]
        if running != self.env.num_envs:
            raise RequestError(
                f"env.num_envs={self.env.num_envs}: the checkpoint holds {running} running environments, and a resume "
                "goes on with those"
            )
        load_module(self.network, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        load_generator_state(self.sampler, state["rng"]["sampler"])
        load_generator_state(self.shuffler, state["rng"]["shuffler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["reward_scaler"])
        progress = state["progress"]
        self.progress.step, self.progress.update = cast(int, progress["step"]), cast(int, progress["update"])
        self.recent.episodes.extend(tuple(episode) for episode in cast(list[Any], progress["recent"]))
        self.rollout.start(self.env.load_state_dict(state["environment"]), self.env.action_mask)
        if self.env.restore_report:
            self.notices.append(self.env.restore_report)
        total = self.config.schedule_budget
        if self.knobs.learning_rate_schedule == "linear" and total <= self.progress.step < self.config.steps:
            self.notices.append(
                f"agent.learning_rate reached 0 at step {total:,}, where its schedule ended: nothing more is learned; "
                f"resume with schedule_steps={self.config.steps} to stretch it"
            )

    def close(self) -> None:
        self.env.close()
        if self._evaluation_env is not None:
            self._evaluation_env.close()

    @staticmethod
    def load(config: TrainConfig, state: Mapping[str, Section], device: torch.device, folder: Path) -> Policy:
        """The policy of the finished run in `folder`, from its config and a checkpoint."""
        env = make_env(config.env, num_envs=1)
        try:
            policy = build_policy(config, env, device)
        finally:
            env.close()
        load_module(policy.network, state["model"])
        return policy

    @staticmethod
    def gradient_steps(config: TrainConfig) -> int:
        """How many minibatches the budget holds: what `compile=auto` weighs against the cost of compiling."""
        knobs: PPOConfig = config.agent
        rows = knobs.n_steps * config.env.num_envs
        return config.steps // rows * knobs.n_epochs * -(-rows // knobs.batch_size)


def build_policy(config: TrainConfig, env: BatchEnv, device: torch.device) -> Policy:
    """A freshly initialised policy for `env`, seeded by the run's seed without touching torch's global generator."""
    knobs: PPOConfig = config.agent
    distribution = distribution_for(env.action_space, knobs.name, knobs.squash)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = ActorCritic(
            env.leaves,
            distribution,
            list(knobs.net_arch),
            knobs.activation,
            knobs.std,
            knobs.log_std_init,
            config.env.normalize_observation,
        )
    return Policy(network.to(device), distribution, env.action_space)


def take(batch: Batch, which: Tensor | slice) -> Batch:
    """The rows `which` of every tensor in the batch."""
    return {
        name: None if x is None else {leaf: y[which] for leaf, y in x.items()} if isinstance(x, dict) else x[which]
        for name, x in batch.items()
    }
