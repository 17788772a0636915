"""Board games on bitboards: a stone is a bit of an int64, of the player to move in OWN, of the other in OTHER.

Cell (row, column), the row counted from the top, is bit `bits[row * columns + column]`; what else a subclass uses bits
for is its own affair.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rlgym.envs.spaces import Array
from rlgym.games.game import OWN, TURN, Game

OTHER = OWN + 1
CELL = 32
"""Pixels of a cell's side in pictures."""
STONES = np.array([[220, 60, 50], [245, 205, 60]], np.uint8)
"""Colours of the players in pictures."""
BACKGROUND, EMPTY = np.array([40, 80, 160], np.uint8), np.array([20, 40, 90], np.uint8)


class BoardGame(Game):
    """A subclass says `rows`, `columns`, `bits`, the legal moves and what a move does (`moved`)."""

    rows: ClassVar[int]
    columns: ClassVar[int]
    bits: ClassVar[tuple[int, ...]]
    marks: ClassVar[str] = "XO"
    """The players' stones in text."""
    words = OWN + 2
    colours: ClassVar[Array] = STONES

    def opening(self) -> tuple[int, int]:
        """The stones of player 0 and 1 at the start, as bits."""
        return 0, 0

    @abstractmethod
    def moved(self, own: Tensor, other: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """After a move by who has `own [games]` against `other [games]`: both players' stones, whether the game is over
        (bool), and then what the mover has won (int64)."""

    def starts(self) -> tuple[Tensor, Tensor]:
        first, second = self.opening()
        return torch.tensor([[0, 0, 0, first, second]]), torch.ones(1, dtype=torch.float64)

    def play(self, position: Tensor, action: Tensor) -> Tensor:
        turn = position[:, TURN]
        own, other, done, won = self.moved(position[:, OWN], position[:, OTHER], action)
        return torch.stack([1 - turn, done.long(), won * done * (1 - 2 * turn), other, own], 1)

    def observe(self, position: Tensor, player: Tensor | None = None) -> Tensor:
        """Two planes: one's own stones and the other's."""
        stones = position[:, OWN:, None]
        if player is not None:
            stones = torch.where((position[:, TURN] == player)[:, None, None], stones, stones.flip(1))
        planes = (stones >> shifts(self.bits, position.device)) & 1
        return planes.float().view(-1, *self.shape)

    def cells(self, position: Tensor) -> Array:
        """One position `[words]` as `[rows, columns]`: 0 and 1 for the players' stones, -1 for none."""
        own, other = self.observe(position[None], torch.zeros(1, dtype=torch.int64, device=position.device))[0].bool()
        found: Array = torch.where(own, 0, torch.where(other, 1, -1)).cpu().numpy()
        return found

    def text(self, position: Tensor) -> str:
        cells = self.cells(position)
        lines = [" ".join(self.marks[cell] if cell >= 0 else "." for cell in row) for row in cells]
        return "\n".join([*lines, *self.legend()])

    def legend(self) -> list[str]:
        """Lines below the board in text."""
        return []

    def image(self, position: Tensor) -> Array:
        cells = self.cells(position)
        picture = np.tile(BACKGROUND, (self.rows * CELL, self.columns * CELL, 1))
        across = (np.arange(CELL) - (CELL - 1) / 2) ** 2
        disc = across[:, None] + across <= (0.42 * CELL) ** 2
        for (row, column), cell in np.ndenumerate(cells):
            part = picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            part[disc] = EMPTY if cell < 0 else self.colours[cell]
        return picture


@cache
def shifts(bits: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(bits, device=device)


def lines(stones: Tensor, steps: tuple[int, ...], length: int) -> Tensor:
    """Whether `stones [games]` hold `length` bits in a row, `[games]` bool; `steps`: from one bit of a row to the next,
    for each direction. Bits between rows must be empty, or rows would run into each other."""
    step = shifts(steps, stones.device)
    run = stones[:, None] & (stones[:, None] >> step)
    have = 2
    while have < length:  # a run of k bits and another that begins up to k further on are one of more
        add = min(have, length - have)
        run = run & (run >> (add * step))
        have += add
    return (run != 0).any(1)


def square_symmetries(side: int) -> Tensor:
    """The eight symmetries of a square board, `[8, side * side]`, the identity first."""
    board = torch.arange(side * side).view(side, side)
    turned = [board.rot90(quarter) for quarter in range(4)]
    return torch.stack([way.flatten() for each in turned for way in (each, each.flip(1))])
