"""Evaluates a policy; every environment plays a fixed share of the episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rlgym.learner import Evaluation

if TYPE_CHECKING:
    from rlgym.envs.batch import BatchEnv
    from rlgym.envs.spaces import Array, Obs

ENDLESS = 30_000
"""Limit in steps for environments without a time limit, since a fixed policy may never end."""


def fresh_seed(seed: int, step: int = 0) -> int:
    """An evaluation seed, far from training's seeds, from the run's `seed` and `step` (0: after training). A pure
    function, so that a resumed run evaluates on the same episodes.
    """
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0] >> 1)


class Acts(Protocol):
    """The interface of a policy in evaluation and play; it may keep a memory per episode."""

    def start(self, envs: int) -> None:
        """Called before the first observations `[envs, ...]` of new episodes."""
        ...

    def ended(self, rows: Sequence[int]) -> None:
        """Called for rows whose episode has ended: their next observation starts another."""
        ...

    def act(self, obs: Obs, mask: Array | None = None, sampler: Any = None) -> Array: ...


class Stateless:
    """No-op `start` and `ended` for policies without memory."""

    def start(self, envs: int) -> None:
        pass

    def ended(self, rows: Sequence[int]) -> None:
        pass


def evaluate_policy(
    policy: Acts, env: BatchEnv, episodes: int, seed: int, sampler: Any = None, limit: int = ENDLESS
) -> Evaluation:
    """Play `episodes` episodes over the parallel slots of `env`, deterministically unless a `sampler` is given.

    Each slot plays a share fixed in advance: taking the first `episodes` to finish would favour short ones. Records
    `{"episodes": [{"return", "length"}, ...]}`, slot by slot, and metrics `eval/mean_reward`, `eval/std_reward`,
    `eval/mean_ep_length`, and `eval/success_rate` where the environment reports success. An episode of more than
    `limit` steps is cut off and counted with its return so far; `cut_episodes` counts them, and a notice reports them.
    """
    share = [episodes // env.num_envs + (slot < episodes % env.num_envs) for slot in range(env.num_envs)]
    played: list[list[dict[str, Any]]] = [[] for _ in range(env.num_envs)]
    missing = episodes
    obs = env.reset(seed)
    mask = env.action_mask
    policy.start(env.num_envs)
    running = np.zeros(env.num_envs, np.int64)
    score = np.zeros(env.num_envs)
    while missing:
        step = env.step(policy.act(obs, mask, sampler))
        obs, mask = step.obs, step.action_mask
        running += 1 if step.valid is None else step.valid
        score += step.reward
        if step.episodes:
            policy.ended([episode.env for episode in step.episodes])
        if step.valid is not None:
            policy.ended(np.flatnonzero(~step.valid).tolist())  # a phantom row repeats the end of the last episode
        for episode in step.episodes:
            slot = episode.env
            running[slot] = score[slot] = 0
            if len(played[slot]) < share[slot]:
                record: dict[str, Any] = {"return": episode.ret, "length": episode.length}
                if episode.success is not None:
                    record["success"] = bool(episode.success)
                played[slot].append(record)
                missing -= 1
        if running.max() >= limit:
            for slot in np.flatnonzero(running >= limit).tolist():
                lacking = share[slot] - len(played[slot])
                played[slot] += [{"return": float(score[slot]), "length": limit, "cut": True}] * lacking
                missing -= lacking
                running[slot] = -(10**12)  # this slot has played its share
    records = [record for slot in played for record in slot]
    returns = np.array([record["return"] for record in records])
    metrics = {
        "eval/mean_reward": float(returns.mean()),
        "eval/std_reward": float(returns.std()),
        "eval/mean_ep_length": float(np.mean([record["length"] for record in records])),
    }
    successes = [record["success"] for record in records if "success" in record]
    if successes:
        metrics["eval/success_rate"] = float(np.mean(successes))
    cut = sum("cut" in record for record in records)
    lines = []
    if cut:
        lines.append(
            f"{cut} of {len(records)} episodes were cut at {limit:,} steps: nothing had ended them, and their returns "
            "are of these steps; a larger max_episode_steps lets them go on"
        )
    return Evaluation(metrics, {"seed": seed, "cut_episodes": cut, "episodes": records}, lines=lines)
