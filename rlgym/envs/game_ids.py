"""Registers the games of rlgym.games as Gymnasium ids (`connect_four`), and checks the keys `env.self_play`. Imports no
torch."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register as register_id
from gymnasium.envs.registration import registry

from rlgym.config.registry import import_own
from rlgym.config.schema import SelfPlayConfig
from rlgym.errors import RequestError
from rlgym.games import GAMES, make_game

if TYPE_CHECKING:
    from rlgym.config.schema import EnvConfig

POOL = "pool"
"""The opponent that stands for past selves of the learning agent."""
BUILT_IN = rf"random|one_ply|mcts_\d+|{POOL}"
"""Opponents other than runs."""


def register() -> None:
    """Register all known games with Gymnasium."""
    for name in GAMES:
        if name not in registry:
            register_id(name, "rlgym.envs.self_play:SelfPlayEnv", kwargs={"game": name}, order_enforce=False)


def is_game(id: str) -> bool:
    """Whether `name`, or `module:name` after importing the module, is a game."""
    module, _, name = id.rpartition(":")
    if module:
        import_own(module)
    register()
    return name in GAMES


def check(config: EnvConfig) -> None:
    """RequestError where a key of `env.self_play` would have no effect or the game does not support it. A run as
    opponent is replaced by its folder, since `last` changes.
    """
    if not is_game(config.id):
        refuse(config, f"env={config.id} is no game of rlgym's ({', '.join(GAMES)})")
        return
    if config.frame_stack > 1:
        raise RequestError(f"env.frame_stack={config.frame_stack}: one observation of env={config.id} tells everything")
    if config.kwargs:
        key = next(iter(config.kwargs))
        raise RequestError(
            f"env.kwargs.{key} has no effect because env={config.id} takes no arguments but env.self_play's"
        )
    wanted = config.self_play.opponent
    if wanted == POOL and config.backend in ("sync", "async"):
        raise RequestError(
            f"env.self_play.opponent={POOL} plays in native batches, not with env.backend={config.backend}; random, "
            "one_ply, mcts_K or a RUN would do"
        )
    if not re.fullmatch(BUILT_IN, wanted):
        from rlgym.run_folder.folder import find_run

        with contextlib.suppress(
            RequestError
        ):  # a missing opponent is reported later; a finished policy does not need one
            config.self_play.opponent = str(find_run(wanted).dir.resolve())


def refuse(config: EnvConfig, why: str) -> None:
    """RequestError where a key of `env.self_play` was given."""
    for key, value in _flat(asdict(config.self_play)).items():
        if value != _flat(asdict(SelfPlayConfig()))[key]:
            raise RequestError(f"env.self_play.{key}={value} has no effect because {why}")


def arguments(config: EnvConfig) -> dict[str, Any]:
    """Constructor arguments of a `SelfPlayEnv`. Without a learning agent there are no past selves: one_ply stands in,
    or random with hidden cards."""
    opponent = config.self_play.opponent
    if opponent == POOL:
        opponent = "one_ply" if make_game(config.id).perfect_information else "random"
    return {"opponent": opponent, "seat": config.self_play.seat}


def alone(config: EnvConfig) -> EnvConfig:
    """The same with a built-in opponent, for callers that only need spaces and masks."""
    if not is_game(config.id):
        return config
    return replace(config, self_play=replace(config.self_play, opponent="random"))


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


register()
