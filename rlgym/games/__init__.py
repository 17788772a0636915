"""Games for self-play, by name. A new one is a file here and an entry in `GAMES`, or is registered by `add`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from rlgym.common.suggest import did_you_mean
from rlgym.config.registry import import_own
from rlgym.errors import RequestError

if TYPE_CHECKING:
    from rlgym.games.game import Game

GAMES = {
    "tic_tac_toe": "rlgym.games.tic_tac_toe:TicTacToe",
    "connect_four": "rlgym.games.connect_four.rules:ConnectFour",
    "othello": "rlgym.games.othello:Othello",
    "othello_6x6": "rlgym.games.othello:Othello6x6",
    "kuhn_poker": "rlgym.games.kuhn_poker:KuhnPoker",
    "leduc_poker": "rlgym.games.leduc_poker:LeducPoker",
}
"""Name -> `module:Class`. Imports nothing, since `--help` reads it."""


def add(game: type[Game]) -> type[Game]:
    """Class decorator that registers a game by its name, for env=module:name where `module` uses it."""
    place = f"{game.__module__}:{game.__qualname__}"
    if GAMES.setdefault(game.name, place) != place:
        raise RequestError(f"{place}: {GAMES[game.name]} has the name {game.name} already; another would do")
    return game


@cache
def make_game(id: str) -> Game:
    """Build the game called `name`, or `module:name` after importing the module, which registers it."""
    module, _, name = id.rpartition(":")
    if module:
        import_own(module)
    if name not in GAMES:
        near = did_you_mean(name, GAMES) or f": the games are {', '.join(GAMES)}"
        raise RequestError(f"no game {id}{near}")
    module, _, cls = GAMES[name].partition(":")
    game: Game = getattr(import_module(module), cls)()
    return game
