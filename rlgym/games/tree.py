"""All positions of a small game, move by move from its starts, enumerated in batches."""

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
"""Positions: of what is larger, nothing is to be computed by visiting all."""


@dataclass
class Level:
    """The positions `[n, words]` that some number of moves leads to, each once; `legal [n, actions]` bool; and `after
    [n, actions]`, the row that a legal move leads to in the next level (0 for others)."""

    position: Tensor
    legal: Tensor
    after: Tensor


@cache
def levels(game: Game) -> list[Level]:
    """From the starts, in their order, to the last move. RequestError for a game that is too large for this."""
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
