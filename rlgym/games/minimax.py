"""Exact solution of small games of perfect information by enumerating all positions, and a perfect player."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.games.game import DONE, RETURN, TURN, random_moves, rewards
from rlgym.games.tree import levels

if TYPE_CHECKING:
    from rlgym.games.game import Game
    from rlgym.games.players import Player


class ExactPlayer:
    """A Player that draws uniformly from the value-preserving moves. RequestError for games that are too large to
    enumerate.
    """

    name = "exact"

    def __init__(self, game: Game) -> None:
        assert game.perfect_information
        self.game = game
        every = [level.position for level in levels(game)]
        worth, keeps = [], []
        after = torch.zeros(1, dtype=torch.int64)
        for level in reversed(levels(game)):
            position, legal = level.position, level.legal
            sign = 1 - 2 * position[:, TURN]
            # Values for the player to move; illegal moves are below any legal one.
            gets = (after[level.after] * sign[:, None]).masked_fill(~legal, -game.max_return - 1)
            best = gets.amax(1)
            after = torch.where(position[:, DONE] > 0, position[:, RETURN], best * sign)
            worth.append(after * sign)
            keeps.append(legal & (gets == best[:, None]))
        self._words = torch.cat(every)
        order = self._key(self._words).argsort()
        self._words = self._words[order]
        self._keys = self._key(self._words)
        assert (self._keys[1:] > self._keys[:-1]).all(), "a position has a key of its own"
        self._worth, self._keeps = torch.cat(worth[::-1])[order], torch.cat(keeps[::-1])[order]

    def __len__(self) -> int:
        """Number of positions."""
        return len(self._keys)

    def value(self, position: Tensor) -> Tensor:
        """Value of `position [games, words]` for the player to move, `[games]` int64."""
        return self._worth.to(position.device)[self._rows(position)]

    def keeps(self, position: Tensor) -> Tensor:
        """Moves that preserve the value, `[games, actions]` bool; none in finished games."""
        return self._keeps.to(position.device)[self._rows(position)]

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        return random_moves(self.keeps(position), generator)

    def _rows(self, position: Tensor) -> Tensor:
        row = torch.searchsorted(self._keys, self._key(position.cpu())).clamp(max=len(self) - 1)
        assert (self._words[row] == position.cpu()).all(), "a position of this game"
        return row.to(position.device)

    def _key(self, position: Tensor) -> Tensor:
        return (position * self._odd).sum(1)

    @cached_property
    def _odd(self) -> Tensor:
        """Multipliers of the hash of a position: the sum of words times these, modulo 2^64."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(2**62, (self.game.words,), generator=generator) * 2 + 1


@dataclass
class Trial:
    """Result of games against the exact player: number of distinct final positions, how many of them were lost, and the
    positions of losing moves, `[n, words]`."""

    ends: int
    lost: int
    errors: Tensor


def trial(
    game: Game,
    player: Player,
    exact: ExactPlayer,
    generator: torch.Generator,
    opening: int = 2,
    every_reply: bool = False,
) -> Trial:
    """Play `player` from both seats, from every position after `opening` arbitrary moves that is not lost, against all
    value-preserving replies; with `every_reply`, against all legal ones. Each position is visited once, so that a
    random player chooses once.
    """
    level = levels(game)[opening].position
    ends = lost = 0
    errors = []
    for seat in (0, 1):
        worth = exact.value(level) * torch.where(level[:, TURN] == seat, 1, -1)
        position = level[worth >= 0]
        for _ in range(opening, game.max_moves + 1):
            over = position[:, DONE] > 0
            ends += int(over.sum())
            lost += int((rewards(position[over], torch.full_like(position[over, 0], seat)) < 0).sum())
            position = position[~over]
            if not len(position):
                break
            own = position[:, TURN] == seat
            moves = game.legal(position) if every_reply else exact.keeps(position)
            moves[own] = False
            if own.any():
                chosen = player.choose(position[own], generator)
                moves[own.nonzero().squeeze(1), chosen] = True
                keeps = exact.keeps(position[own]).gather(1, chosen[:, None]).squeeze(1)
                errors.append(position[own][~keeps])
            row, action = moves.nonzero(as_tuple=True)
            position = torch.unique(game.play(position[row], action), dim=0)
    return Trial(ends, lost, torch.cat(errors) if errors else level[:0])
