"""Connect Four: seven columns, six high; four in a row, column or diagonal win."""

from __future__ import annotations

import torch
from torch import Tensor

from rlgym.games.board import OTHER, BoardGame, after, constant, lines, on_arrays
from rlgym.games.game import DONE, OWN

ROWS, COLUMNS = 6, 7
HEIGHT = ROWS + 1
"""Bits of a column: the topmost stays empty, so that neighbouring columns do not run into each other."""
BOTTOMS = tuple(1 << HEIGHT * column for column in range(COLUMNS))
TOPS = tuple(bottom << ROWS - 1 for bottom in BOTTOMS)
FULL = sum(bottom * (2**ROWS - 1) for bottom in BOTTOMS)


class ConnectFour(BoardGame):
    name = "connect_four"
    summary = "four in a row on a standing board of 7 x 6"
    rows, columns = ROWS, COLUMNS
    bits = tuple(HEIGHT * column + ROWS - 1 - row for row in range(ROWS) for column in range(COLUMNS))
    actions = COLUMNS
    shape = (2, ROWS, COLUMNS)
    max_moves = ROWS * COLUMNS

    @on_arrays
    def legal(self, position: Tensor) -> Tensor:
        taken = position[:, OWN] | position[:, OTHER] | -position[:, DONE]  # minus one is all bits
        return (taken[:, None] & constant(TOPS, position.device)) == 0

    @on_arrays
    def play(self, position: Tensor, action: Tensor) -> Tensor:
        own, other = position[:, OWN], position[:, OTHER]
        stones = own | other
        # Adding a column's lowest bit carries over its stones to the first free cell.
        filled = (stones + constant(BOTTOMS, own.device)[action]) | stones
        own = filled ^ other
        wins = lines(own, (1, HEIGHT - 1, HEIGHT, HEIGHT + 1), 4)
        return after(position, own, other, wins | (filled == FULL), wins)

    def symmetries(self) -> tuple[Tensor, Tensor]:
        board, moves = torch.arange(ROWS * COLUMNS).view(ROWS, COLUMNS), torch.arange(COLUMNS)
        return torch.stack([board.flatten(), board.flip(1).flatten()]), torch.stack([moves, moves.flip(0)])

    def move_name(self, action: int) -> str:
        return str(action + 1)

    def labelled(self, lines: list[str]) -> list[str]:
        return [*lines, " ".join(self.move_name(action) for action in range(COLUMNS))]
