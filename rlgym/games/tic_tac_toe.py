"""Tic-tac-toe: three in a row on a board of nine cells."""

from __future__ import annotations

from torch import Tensor

from rlgym.games.board import OTHER, BoardGame, after, lines, masks, on_arrays, square_symmetries
from rlgym.games.game import DONE, OWN

SIDE = 3
BITS = tuple((SIDE + 1) * row + column for row in range(SIDE) for column in range(SIDE))
"""The fourth bit of each row stays empty, so that neighbouring rows do not run into each other."""
FULL = sum(1 << bit for bit in BITS)


class TicTacToe(BoardGame):
    name = "tic_tac_toe"
    summary = "three in a row on nine cells"
    rows = columns = SIDE
    bits = BITS
    actions = SIDE * SIDE
    shape = (2, SIDE, SIDE)
    max_moves = SIDE * SIDE

    @on_arrays
    def legal(self, position: Tensor) -> Tensor:
        stones = position[:, OWN] | position[:, OTHER]
        free = (stones[:, None] & masks(BITS, position.device)) == 0
        return free & (position[:, DONE : DONE + 1] == 0)

    @on_arrays
    def play(self, position: Tensor, action: Tensor) -> Tensor:
        own, other = position[:, OWN], position[:, OTHER]
        own = own | masks(BITS, own.device)[action]
        wins = lines(own, (1, SIDE, SIDE + 1, SIDE + 2), SIDE)
        return after(position, own, other, wins | ((own | other) == FULL), wins)

    def symmetries(self) -> tuple[Tensor, Tensor]:
        cells = square_symmetries(SIDE)
        return cells, cells  # a move is the marked cell

    def move_name(self, action: int) -> str:
        return self.cell_name(action)
