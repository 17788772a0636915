"""Games for self-play, by name. A new one is a file beside these and a line in `GAMES`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from rlgym.errors import RequestError
from rlgym.nearest import did_you_mean

if TYPE_CHECKING:
    from rlgym.games.game import Game

GAMES = {
    "tic_tac_toe": "rlgym.games.tic_tac_toe:TicTacToe",
    "connect_four": "rlgym.games.connect_four:ConnectFour",
    "othello": "rlgym.games.othello:Othello",
    "othello_6x6": "rlgym.games.othello:Othello6x6",
    "kuhn_poker": "rlgym.games.kuhn_poker:KuhnPoker",
    "leduc_poker": "rlgym.games.leduc_poker:LeducPoker",
}
"""Name -> `module:Class`. Imports nothing: the help reads it."""


@cache
def make_game(name: str) -> Game:
    """The rules of the game of this name."""
    if name not in GAMES:
        near = did_you_mean(name, GAMES) or f": the games are {', '.join(GAMES)}"
        raise RequestError(f"no game {name}{near}")
    module, _, cls = GAMES[name].partition(":")
    game: Game = getattr(import_module(module), cls)()
    return game
