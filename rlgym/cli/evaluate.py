"""`evaluate RUN`: fresh episodes with a finished model; the record goes into the run folder, a summary to stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.envs.episodes import fresh_seed
from rlgym.envs.evaluation import evaluate_in
from rlgym.envs.game_ids import is_game
from rlgym.envs.make import episode_limit
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load


def evaluate(folder: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Play `episodes` with the run's `checkpoint`, a fixed share in each environment; in a game, against each of
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
    return evaluate_in(policy, config.env, folder, words["episodes"], seed, subject, limit)
