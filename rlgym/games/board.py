"""Board games on bitboards: a stone is a bit of an int64, of the player to move in OWN, of the other in OTHER.

Cell (row, column), the row counted from the top, is bit `bits[row * columns + column]`; what else a subclass uses bits
for is its own affair. All 64 can be cells: then the sign is one, and what a right shift fills in must be masked out.
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
"""Pixels of a cell's side in pictures."""


class BoardGame(Game):
    """A subclass says `rows`, `columns`, `bits`, how a game starts, the legal moves and what a move does."""

    rows: ClassVar[int]
    columns: ClassVar[int]
    bits: ClassVar[tuple[int, ...]]
    words = OWN + 2
    marks: ClassVar[str] = "XO"
    """The players' stones in text."""
    colours: ClassVar[tuple[tuple[int, int, int], ...]] = ((220, 60, 50), (245, 205, 60), (20, 40, 90), (40, 80, 160))
    """In pictures: of the players' stones, of an empty cell, of the board."""

    def starts(self) -> tuple[Tensor, Tensor]:
        """An empty board."""
        return torch.zeros(1, self.words, dtype=torch.int64), torch.ones(1, dtype=torch.float64)

    def observe(self, position: Tensor, player: Tensor | None = None) -> Tensor:
        """Two planes: one's own stones and the other's."""
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
        """The rows in text, with what names the cells around them: letters for columns, numbers for rows."""
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
    """For a rule written in operators, indexing and the functions below alone: a CPU's tensors go through it as NumPy's
    arrays, which have these too and whose small calls cost a third of torch's."""

    @wraps(rule)
    def run(game: Game, *tensors: Tensor) -> Tensor:
        if tensors[0].device.type != "cpu":
            return rule(game, *tensors)
        arrays: list[Any] = [tensor.numpy() for tensor in tensors]
        return torch.from_numpy(rule(game, *arrays))

    return run


def after(position: Tensor, own: Tensor, other: Tensor, done: Tensor, won: Tensor, *words: Tensor) -> Tensor:
    """The next positions `[games, words]`, where the other player moves.

    Stones `[games]`: `own` of who has just moved, `other` of the other. Where the game is `done`, the mover has `won`
    that much, elsewhere 0. Behind them a game's own words.
    """
    turn = position[:, TURN]
    stack: Callable[..., Tensor] = torch.stack if isinstance(position, Tensor) else np.stack
    return stack([1 - turn, done, won * (1 - 2 * turn), other, own, *words], 1)


@cache
def constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """`values` as int64 on a tensor's device; for that of NumPy's arrays, which is "cpu", as such an array."""
    found: Any = torch.tensor(values, device=device) if isinstance(device, torch.device) else np.array(values)
    return cast(Tensor, found)


@cache
def masks(bits: tuple[int, ...], device: torch.device) -> Tensor:
    """For each of `bits` the word that has this bit alone, as `constant` gives it."""
    found: Tensor = 1 << constant(bits, device)
    return found


def lines(stones: Tensor, steps: tuple[int, ...], length: int) -> Tensor:
    """Whether `stones [games]` hold `length` bits in a row, `[games]` bool; `steps`: from one bit of a row to the next,
    for each direction. Bits between rows must be empty, or rows would run into each other, and so must the sign."""
    run, have = stones, 1
    while have < length:  # a run of k bits and another that begins up to k further on are one of more
        add = min(have, length - have)
        run = run & (run >> constant(tuple(add * step for step in steps), stones.device)[:, None])
        have += add
    return run.any(0)


def count(stones: Tensor) -> Tensor:
    """How many bits of each word are set, in pairs, in fours, in bytes, then all bytes summed in the highest one."""
    pairs = stones - ((stones >> 1) & 0x5555555555555555)
    fours = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    return (((fours + (fours >> 4)) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101) >> 56


def square_symmetries(side: int) -> Tensor:
    """The eight symmetries of a square board, `[8, side * side]`, the identity first."""
    board = torch.arange(side * side).view(side, side)
    turned = [board.rot90(quarter) for quarter in range(4)]
    return torch.stack([way.flatten() for each in turned for way in (each, each.flip(1))])
