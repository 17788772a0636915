"""Othello: a new stone flips the opponent's stones between it and another stone of the player in a straight line. A
player without such a move passes; the game ends when neither can move, and the player with more stones wins.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rlgym.games.board import OTHER, BoardGame, after, constant, count, masks, square_symmetries
from rlgym.games.game import DONE, OWN

PLACES = OTHER + 1
"""Word with the cells in which the player to move may place a stone, computed by the previous move."""
GRID = 8
"""Cells lie on a grid of 8 x 8, those of a smaller board in its middle."""
STEPS = (1, GRID - 1, GRID, GRID + 1)
"""From a cell to its neighbours to the right and below; those to the left and above are right shifts away."""


def rectangle(rows: range, columns: range) -> int:
    return sum(1 << GRID * row + column for row in rows for column in columns)


ALL, INNER = range(GRID), range(1, GRID - 1)
TURNABLE = tuple(rectangle(*sides) for sides in ((ALL, INNER), (INNER, INNER), (INNER, ALL), (INNER, INNER)))
"""For each step, the cells with neighbours on both sides, which can be enclosed. Without the edges, no line wraps
around the board, and no right shift reaches the sign bit."""
BLACK, WHITE = 1 << 28 | 1 << 35, 1 << 27 | 1 << 36


def square(side: int) -> tuple[int, ...]:
    """The bits of a board of side x side in the middle of the grid."""
    edge = (GRID - side) // 2
    return tuple(GRID * (edge + row) + edge + column for row in range(side) for column in range(side))


class Othello(BoardGame):
    name = "othello"
    summary = "turning over what one encloses, on 8 x 8"
    rows = columns = 8
    bits = square(8)
    words = PLACES + 1
    actions = 8 * 8 + 1
    """Each cell, and to pass."""
    shape = (2, 8, 8)
    max_moves = 2 * (8 * 8 - 4)
    """A pass is followed by a stone, so there are at most as many passes as stones."""
    marks = "XO"
    colours = ((15, 15, 15), (245, 245, 245), (20, 95, 55), (30, 125, 75))
    board: ClassVar[int] = -1
    """All cells as one word."""

    def starts(self) -> tuple[Tensor, Tensor]:
        black, white = torch.tensor([BLACK]), torch.tensor([WHITE])
        places = reach(black, white, self.board & ~(black | white))
        return torch.stack([*torch.zeros(3, 1, dtype=torch.int64), black, white, places], 1), torch.ones(1).double()

    def legal(self, position: Tensor) -> Tensor:
        done, places = position[:, DONE], position[:, PLACES]
        legal = places.new_empty((len(places), self.actions), dtype=torch.bool)
        torch.ne((places * (1 - done))[:, None] & masks(self.bits, places.device), 0, out=legal[:, :-1])
        torch.eq(places | done, 0, out=legal[:, -1])
        return legal

    def play(self, position: Tensor, action: Tensor) -> Tensor:
        own, other = position[:, OWN], position[:, OTHER]
        stone = placed(self.bits, action.device)[action]
        turned = enclosed(stone, own, other)
        own, other = own | stone | turned, other ^ turned
        movers = torch.stack([other, own])
        places, again = reach(movers, movers.flip(0), self.board & ~(own | other)).unbind()
        theirs, mine = count(movers).unbind()
        done = (places | again) == 0
        return after(position, own, other, done, (mine - theirs).sign() * done, places)

    def symmetries(self) -> tuple[Tensor, Tensor]:
        cells = square_symmetries(self.rows)
        return cells, torch.nn.functional.pad(cells, (0, 1), value=self.actions - 1)

    def move_name(self, action: int) -> str:
        return "pass" if action == self.actions - 1 else self.cell_name(action)

    def row_name(self, row: int) -> str:
        return str(row + 1)


class Othello6x6(Othello):
    name = "othello_6x6"
    summary = "turning over what one encloses, on 6 x 6"
    rows = columns = 6
    bits = square(6)
    actions = 6 * 6 + 1
    shape = (2, 6, 6)
    max_moves = 2 * (6 * 6 - 4)
    board = sum(1 << bit for bit in bits)


def placed(bits: tuple[int, ...], device: torch.device) -> Tensor:
    """The stone placed by each action, as a word; none for a pass."""
    return torch.nn.functional.pad(masks(bits, device), (0, 1))


def reach(own: Tensor, other: Tensor, empty: Tensor) -> Tensor:
    """Empty cells in which a stone of `own` would flip some of `other`; all words of one shape."""
    step = constant(STEPS, own.device).view(-1, *[1] * own.dim())
    right, left = runs(own, other, step)
    a, b, c, d = ((right << step) | (left >> step)).unbind()
    return (a | b | c | d) & empty


def enclosed(stone: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Stones of `other [games]` between `stone [games]` and one of `own [games]`, in all eight directions."""
    step = constant(STEPS, own.device)[:, None]
    right, left = runs(stone, other, step)
    right = right * ((right << step & own) != 0)
    left = left * ((left >> step & own) != 0)
    return (right + left).sum(0)  # no stone is on two lines


def runs(start: Tensor, other: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Stones of `other` in an unbroken line that begins beside one of `start`, for each step to the right (and below)
    and to the left (and above). At most six are in a row between two others: one, then two, four, six."""
    through = other & constant(TURNABLE, other.device).view(step.shape)
    right = through & (start << step)
    right |= through & (right << step)
    pairs, twice = through & (through << step), 2 * step
    right |= pairs & (right << twice)
    right |= pairs & (right << twice)
    left = through & (start >> step)
    left |= through & (left >> step)
    pairs = through & (through >> step)
    left |= pairs & (left >> twice)
    left |= pairs & (left >> twice)
    return right, left
