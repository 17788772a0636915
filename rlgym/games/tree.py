"""Enumerates all positions of a small game, move by move, in batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.games.game import DONE

if TYPE_CHECKING:
    from rlgym.games.game import Game

MOST = 200_000
"""Maximum number of positions to enumerate."""


@dataclass
class Level:
    """The distinct positions `[n, words]` after a number of moves; `legal [n, actions]` bool; and `after [n, actions]`,
    the row in the next level after each legal move (0 for others)."""

    position: Tensor
    legal: Tensor
    after: Tensor


@cache
def levels(game: Game) -> list[Level]:
    """All levels from the starts, in their order, to the last move. RequestError for games that are too large."""
    position, _ = game.starts()
    found: list[Level] = []
    count = len(position)
    while True:
        legal = game.legal(position) & (position[:, DONE : DONE + 1] == 0)
        row, action = legal.nonzero(as_tuple=True)
        after = torch.zeros(legal.shape, dtype=torch.int64)
        found.append(Level(position, legal, after))
        if not len(row):
            return found
        count += len(row)
        if count > MOST:
            raise RequestError(f"{game.name} has more than {MOST:,} positions: too many to visit them all")
        position, after[row, action] = torch.unique(game.play(position[row], action), dim=0, return_inverse=True)
