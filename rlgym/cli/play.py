"""`play RUN`: watch a finished policy, as a video in the run folder or in a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.config.effect import no_effect
from rlgym.envs.episodes import fresh_seed
from rlgym.envs.game_ids import is_game
from rlgym.envs.show import show
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load


def play(folder: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Show `episodes` episodes with the run's `checkpoint`; prints and returns their returns and a video's file."""
    config = load_config(folder, trust=words["trust"])
    if is_game(config.env.id):
        from rlgym.games.playing import play as play_game  # imports torch

        if words["render"] == "window":
            raise RequestError("render=window: games are played in the terminal (render=terminal) or filmed (video)")
        return play_game(config, folder, words)
    for key in ("against", "seat"):
        if words[key]:
            raise no_effect(key, words[key], f"env={config.env.id} is no game of rlgym's")
    if words["render"] == "terminal":
        raise RequestError(f"render=terminal: env={config.env.id} is no game of rlgym's; video or window would do")
    policy = load(Run(folder), words["checkpoint"], trust=words["trust"])
    seed = fresh_seed(config.seed) if words["seed"] is None else words["seed"]
    render = "video" if words["render"] == "auto" else words["render"]
    return show(policy, config.env, folder, words["episodes"], seed, render)
