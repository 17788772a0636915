"""Checks of the config for agents that play games against themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlgym.config.schema import EnvConfig
from rlgym.errors import RequestError
from rlgym.games import GAMES, make_game

if TYPE_CHECKING:
    from rlgym.config.schema import TrainConfig
    from rlgym.games.game import Game

WITHOUT_EFFECT = (
    "num_envs",
    "backend",
    "kwargs",
    "frame_stack",
    "normalize_observation",
    "normalize_reward",
    "self_play",
)


def game_named(config: TrainConfig) -> Game:
    """The game named by `env=`. RequestError where there is none, or where a key of `env` would have no effect."""
    name, agent = config.env.id, config.agent.name
    if name not in GAMES and ":" not in name:
        raise RequestError(
            f"agent={agent} plays games against itself ({', '.join(GAMES)}), and env={name} is none; agent=ppo would do"
        )
    plain = EnvConfig()
    for key in WITHOUT_EFFECT:
        if getattr(config.env, key) != getattr(plain, key):
            remedy = "agent.games says how many games run at once" if key == "num_envs" else "leave it out"
            raise RequestError(f"env.{key} has no effect on agent={agent}, which plays itself; {remedy}")
    if config.evaluate.max_episode_steps is not None:
        raise RequestError(f"evaluate.max_episode_steps has no effect on agent={agent}: games end by their rules")
    return make_game(name)
