"""Board games on bitboards: a stone is a bit of an int64, in OWN for the player to move, in OTHER for the other. Cell
(row, column), rows counted from the top, is bit `bits[row * columns + column]`; subclasses may use other bits freely.
With 64 cells the sign bit is one too, and bits filled in by right shifts must be masked out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from rlgym.envs.spaces import Array
from rlgym.games.game import OWN, TURN, Game

OTHER = OWN + 1
CELL = 32
"""Size of a cell in pictures, in pixels."""


class BoardGame(Game):
    """Base class; a subclass defines `rows`, `columns`, `bits`, the start, the legal moves and the effect of a move."""

    rows: ClassVar[int]
    columns: ClassVar[int]
    bits: ClassVar[tuple[int, ...]]
    words = OWN + 2
    marks: ClassVar[str] = "XO"
    """Characters of the players' stones."""
    colours: ClassVar[tuple[tuple[int, int, int], ...]] = ((220, 60, 50), (245, 205, 60), (20, 40, 90), (40, 80, 160))
    """Colours of the players' stones, an empty cell and the board."""

    def starts(self) -> tuple[Tensor, Tensor]:
        """An empty board."""
        return torch.zeros(1, self.words, dtype=torch.int64), torch.ones(1, dtype=torch.float64)

    def observe(self, position: Tensor, player: Tensor | None = None) -> Tensor:
        """Two planes: own stones and the opponent's."""
        stones = position[:, OWN : OTHER + 1, None]
        if player is not None:
            stones = torch.where((position[:, TURN] == player)[:, None, None], stones, stones.flip(1))
        planes = (stones & masks(self.bits, position.device)) != 0
        return planes.float().view(-1, *self.shape)

    def cells(self, position: Tensor) -> Array:
        """One position `[words]` as `[rows, columns]`: 0 and 1 for the players' stones, -1 for none."""
        own, other = self.observe(position[None], torch.zeros_like(position[:1]))[0].bool()
        found: Array = torch.where(own, 0, torch.where(other, 1, -1)).cpu().numpy()
        return found

    def text(self, position: Tensor) -> str:
        lines = [" ".join((self.marks + ".")[cell] for cell in row) for row in self.cells(position)]
        return "\n".join(self.labelled(lines))

    def labelled(self, lines: list[str]) -> list[str]:
        """The board as text, with letters for columns and numbers for rows."""
        named = [f"{self.row_name(row)} {line}" for row, line in enumerate(lines)]
        return [*named, "  " + " ".join("abcdefgh"[: self.columns])]

    def row_name(self, row: int) -> str:
        return str(self.rows - row)

    def cell_name(self, cell: int) -> str:
        row, column = divmod(cell, self.columns)
        return "abcdefgh"[column] + self.row_name(row)

    def image(self, position: Tensor) -> Array:
        picture = np.tile(np.array(self.colours[-1], np.uint8), (self.rows * CELL, self.columns * CELL, 1))
        across = (np.arange(CELL) - (CELL - 1) / 2) ** 2
        disc = across[:, None] + across <= (0.42 * CELL) ** 2
        for (row, column), cell in np.ndenumerate(self.cells(position)):
            part = picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            part[disc] = self.colours[cell if cell >= 0 else 2]
        return picture


def on_arrays(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator for rules written with operators, indexing and the functions below only: CPU tensors are passed as
    NumPy arrays, whose small calls cost a third of torch's."""

    @wraps(rule)
    def run(game: Game, *tensors: Tensor) -> Tensor:
        if tensors[0].device.type != "cpu":
            return rule(game, *tensors)
        arrays: list[Any] = [tensor.numpy() for tensor in tensors]
        return torch.from_numpy(rule(game, *arrays))

    return run


def after(position: Tensor, own: Tensor, other: Tensor, done: Tensor, won: Tensor, *words: Tensor) -> Tensor:
    """Assemble the next positions `[games, words]`, with the other player to move. Stones `[games]`: `own` of the
    mover, `other` of the opponent. `won` is the mover's result where the game is `done`, else 0. The game's own words
    follow.
    """
    turn = position[:, TURN]
    stack: Callable[..., Tensor] = torch.stack if isinstance(position, Tensor) else np.stack
    return stack([1 - turn, done, won * (1 - 2 * turn), other, own, *words], 1)


@cache
def constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """`values` as an int64 tensor on a device, or for "cpu" as a NumPy array."""
    found: Any = torch.tensor(values, device=device) if isinstance(device, torch.device) else np.array(values)
    return cast(Tensor, found)


@cache
def masks(bits: tuple[int, ...], device: torch.device) -> Tensor:
    """Words with a single bit each, for `bits`; see `constant`."""
    found: Tensor = 1 << constant(bits, device)
    return found


def lines(stones: Tensor, steps: tuple[int, ...], length: int) -> Tensor:
    """Whether `stones [games]` hold `length` bits in a row, `[games]` bool; `steps`: bit distance between neighbours,
    for each direction. Bits between rows, and the sign bit, must be empty, so that rows do not run into each other."""
    run, have = stones, 1
    while have < length:  # a run of k bits and one starting up to k further on form a longer run
        add = min(have, length - have)
        run = run & (run >> constant(tuple(add * step for step in steps), stones.device)[:, None])
        have += add
    return run.any(0)


def count(stones: Tensor) -> Tensor:
    """Population count of each word: sums of pairs, nibbles and bytes, then all bytes summed in the highest one."""
    pairs = stones - ((stones >> 1) & 0x5555555555555555)
    fours = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    return (((fours + (fours >> 4)) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101) >> 56


def square_symmetries(side: int) -> Tensor:
    """The eight symmetries of a square board as permutations `[8, side * side]`, identity first."""
    board = torch.arange(side * side).view(side, side)
    turned = [board.rot90(quarter) for quarter in range(4)]
    return torch.stack([way.flatten() for each in turned for way in (each, each.flip(1))])
