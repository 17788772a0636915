"""`evaluate RUN`: judge a finished model on fresh episodes, write what was found into the run folder and print it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.config import EnvConfig
from rlgym.config_file import load_config
from rlgym.envs.episodes import Acts, evaluate_policy, fresh_seed
from rlgym.envs.game_ids import is_game
from rlgym.envs.make import episode_limit, make_env
from rlgym.errors import RequestError
from rlgym.learner import Evaluation
from rlgym.loading import load
from rlgym.run import Run


def evaluate(folder: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Play `episodes` with the run's `checkpoint`, each environment its fixed share; of a game, against each of
    `opponents`.

    Writes evaluations/*.json with `{"mean_reward", "std_reward", "episodes": [{"return", "length"}, ...], ...}`, prints
    the same in short, and returns it.
    """
    config = load_config(folder, trust=words["trust"])
    policy = load(Run(folder), words["checkpoint"], words["device"], words["trust"])
    seed = fresh_seed(config.seed) if words["seed"] is None else words["seed"]
    subject = {"checkpoint": words["checkpoint"]}
    limit = episode_limit(config.env, words["max_episode_steps"])
    if is_game(config.env.id):
        from rlgym.games.contest import contest  # imports torch

        return contest(policy, config.env.id, folder, words, seed, subject)
    for key in ("opponents", "positions"):
        if words[key]:
            raise RequestError(f"{key}={words[key]} has no effect because env={config.env.id} is no game of rlgym's")
    if words["max_episode_steps"] is None:
        limit = config.evaluate.max_episode_steps or limit
    return judge(policy, config.env, folder, words["episodes"], seed, subject, limit)


def judge(
    policy: Acts, config: EnvConfig, folder: Path, episodes: int, seed: int, subject: dict[str, Any], limit: int
) -> dict[str, Any]:
    """`evaluate` for any policy, which cuts episodes at `limit` steps; writes into `folder`. `subject`: what the record
    says of who was judged."""
    env = make_env(config, num_envs=min(episodes, config.num_envs))
    try:
        found = evaluate_policy(policy, env, episodes, seed, limit=limit)
    finally:
        env.close()
    return conclude(found, folder, f"{episodes} fresh episodes", seed, subject)


def conclude(found: Evaluation, folder: Path, what: str, seed: int, subject: dict[str, Any]) -> dict[str, Any]:
    """Write what an evaluation of `what` (as "100 fresh episodes") found into the folder's evaluations/, print it in
    short, and return it."""
    result: dict[str, Any] = {tag.removeprefix("eval/"): value for tag, value in found.metrics.items()}
    result |= {**subject, **found.records}
    mean, deviation = result["mean_reward"], result["std_reward"]
    print(f"mean_reward {mean:.4g}  std_reward {deviation:.4g}  over {what}")
    for line in found.lines:
        print(line)
    Run(folder).keep_evaluation(result, f"{len(found.records['episodes'])}_episodes_seed_{seed}")
    return result
