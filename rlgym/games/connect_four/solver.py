"""An exact solver of Connect Four: value, score and value-preserving moves of a position. Compiled alpha-beta on
bitboards (alpha_beta.py). The first use compiles it, which takes some seconds and is cached for later processes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlgym.games.board import OTHER
from rlgym.games.connect_four.rules import COLUMNS, ROWS, ConnectFour
from rlgym.games.game import DONE, OWN, RETURN, TURN

CELLS = ROWS * COLUMNS
SLOTS = 2**22 + 15
"""Slots of the table, eight bytes each."""


class Solver:
    """Solver of Connect Four with a transposition table of 34 MB that persists between calls. A position is one row
    `[words]`; values are for the player to move.
    """

    def __init__(self) -> None:
        from rlgym.games.connect_four import alpha_beta  # compiles

        self.game = ConnectFour()
        self._solve = alpha_beta.solve
        self._table = np.zeros(SLOTS, np.int64)
        self._order = np.zeros((CELLS, COLUMNS), np.int64)
        self._nodes = np.zeros(1, np.int64)

    @property
    def nodes(self) -> int:
        """Number of positions searched so far."""
        return int(self._nodes[0])

    def score(self, position: Tensor) -> int:
        """The score: positive where the player to move wins, 1 with its last stone, 2 with the one before, and so on;
        negative where the opponent does."""
        return self._within(position, -CELLS, CELLS)

    def value(self, position: Tensor) -> int:
        """1, 0 or -1: won, drawn or lost. Much faster than the score."""
        return self._within(position, -1, 1)

    def keeps(self, position: Tensor, move: int) -> bool:
        """Whether a legal move preserves the position's value."""
        return self.keeping(position, self.value(position))[move]

    def keeping(self, position: Tensor, value: int) -> list[bool]:
        """For each move, whether it is legal and achieves at least `value`."""
        legal = self.game.legal(position[None])[0].tolist()
        after = self.game.step(position.repeat(COLUMNS, 1), torch.arange(COLUMNS))
        # Every move achieves a loss; otherwise a null window next to the value decides.
        return [
            may and (value < 0 or self._within(row, -value, 1 - value) <= -value)
            for may, row in zip(legal, after, strict=True)
        ]

    def _within(self, position: Tensor, least: int, most: int) -> int:
        """The score, clipped to [least, most]."""
        words = position.tolist()
        own, other = words[OWN], words[OTHER]
        if words[DONE]:
            stones = (own | other).bit_count()
            won = words[RETURN] * (1 - 2 * words[TURN]) * ((CELLS + 2 - stones) // 2)
            return int(max(least, min(most, won)))
        return int(self._solve(own, own | other, least, most, self._table, self._order, self._nodes))
