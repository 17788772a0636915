"""Plays fresh episodes of a policy, records them in a folder's evaluations/, and prints a summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.config.schema import EnvConfig
from rlgym.envs.episodes import Acts, evaluate_policy
from rlgym.envs.make import make_env
from rlgym.learner import Evaluation
from rlgym.run_folder.folder import Run


def evaluate_in(
    policy: Acts, config: EnvConfig, folder: Path, episodes: int, seed: int, subject: dict[str, Any], limit: int
) -> dict[str, Any]:
    """Play `episodes` of a policy, cut off at `limit` steps each, and `report` them. `subject`: entries of the record
    about the policy."""
    env = make_env(config, num_envs=min(episodes, config.num_envs))
    try:
        found = evaluate_policy(policy, env, episodes, seed, limit=limit)
    finally:
        env.close()
    return report(found, folder, f"{episodes} fresh episodes", seed, subject)


def report(found: Evaluation, folder: Path, what: str, seed: int, subject: dict[str, Any]) -> dict[str, Any]:
    """Write the results of evaluating `what` (such as "100 fresh episodes") to the folder's evaluations/, print a
    summary, and return them."""
    result: dict[str, Any] = {tag.removeprefix("eval/"): value for tag, value in found.metrics.items()}
    result |= {**subject, **found.records}
    mean, deviation = result["mean_reward"], result["std_reward"]
    print(f"mean_reward {mean:.4g}  std_reward {deviation:.4g}  over {what}")
    for line in found.lines:
        print(line)
    Run(folder).keep_evaluation(result, f"{len(found.records['episodes'])}_episodes_seed_{seed}")
    return result
