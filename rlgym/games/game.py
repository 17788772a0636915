"""What a two-player zero-sum game is here: pure functions on batches of positions, on any device.

A position is a row of int64 words. Three of them mean the same in every game, the others are the game's own:

    TURN     the player to move: 0 (who began) or 1
    DONE     1 once the game is over
    RETURN   then what player 0 has won; player 1 has won its negative

So positions can be stored, indexed and compared without knowing the game. Chance acts only before the first move: a
deal is one of `starts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache, cached_property
from typing import ClassVar

import torch
from torch import Tensor

from rlgym.envs.spaces import Array

TURN, DONE, RETURN = 0, 1, 2
OWN = 3
"""The first of the words that are a game's own."""


class Game(ABC):
    """A game is one file with a subclass, listed in `rlgym.games.GAMES`; tests/games/test_every_game.py checks it."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for the help."""
    words: ClassVar[int]
    actions: ClassVar[int]
    shape: ClassVar[tuple[int, ...]]
    """Of an observation: [planes, rows, columns] of a board, else [features]."""
    max_moves: ClassVar[int]
    """No game is longer."""
    max_return: ClassVar[int] = 1
    """The most that can be won."""
    perfect_information: ClassVar[bool] = True
    """Whether an observation tells the whole position. Else it tells all that a player has seen (perfect recall)."""

    # ---- the rules

    @abstractmethod
    def starts(self) -> tuple[Tensor, Tensor]:
        """Every position that a game may begin with, `[n, words]`, and how probable each is, `[n]` float64."""

    @abstractmethod
    def legal(self, position: Tensor) -> Tensor:
        """Of `position [games, words]`, the moves that may be made: `[games, actions]` bool; none where DONE."""

    @abstractmethod
    def play(self, position: Tensor, action: Tensor) -> Tensor:
        """The positions `[games, words]` after the legal moves `action [games]`, in games that are not over."""

    @abstractmethod
    def observe(self, position: Tensor, player: Tensor | None = None) -> Tensor:
        """What `player [games]` (None: the player to move) sees: `[games, *shape]` float32, from that player's side."""

    # ---- for people

    @abstractmethod
    def text(self, position: Tensor) -> str:
        """One position `[words]` in lines of text, as player 0 and 1 at once see it."""

    def text_for(self, position: Tensor, player: int) -> str:
        """The same as `player` sees it."""
        assert self.perfect_information, "hidden cards would be shown"
        return self.text(position)

    @abstractmethod
    def image(self, position: Tensor) -> Array:
        """One position `[words]` as a picture, `[height, width, 3]` uint8."""

    @abstractmethod
    def move_name(self, action: int) -> str:
        """A move as people write it; no two are the same."""

    # ---- what follows from these

    def init(self, games: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        """Fresh positions `[games, words]`; deals are drawn by `generator`, which lives on the device."""
        starts, bounds = starts_on(self, torch.device(device))
        if len(starts) == 1:
            return starts.repeat(games, 1)
        drawn = torch.rand(games, generator=generator, device=device, dtype=torch.float64)
        return starts[torch.searchsorted(bounds, drawn, right=True)]

    def step(self, position: Tensor, action: Tensor) -> Tensor:
        """`play` where the games go on; those that are over stay as they are, whatever `action` says there."""
        return torch.where(position[:, DONE : DONE + 1] > 0, position, self.play(position, action))

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """Ways to turn and mirror a board that leave the game the same: `[n, rows * columns]` and `[n, actions]`.

        Symmetry s shows at cell i what was at cell `cells[s, i]`, and its move a was the move `actions[s, a]`: planes
        become `planes.flatten(-2)[..., cells[s]]`, a policy `policy[..., actions[s]]`. The first changes nothing.
        """
        cells = self.shape[-2] * self.shape[-1] if len(self.shape) == 3 else 0
        return torch.arange(cells)[None], torch.arange(self.actions)[None]

    def parse_move(self, text: str) -> int | None:
        """The move that `text` names, in any case; None where it names none."""
        return self._by_name.get(text.strip().lower())

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {self.move_name(action).lower(): action for action in range(self.actions)}


@cache
def starts_on(game: Game, device: torch.device) -> tuple[Tensor, Tensor]:
    """The starts `[n, words]`, and below which uniform number in [0, 1) each but the last ends, `[n - 1]` float64."""
    starts, probability = game.starts()
    return starts.to(device), probability.cumsum(0)[:-1].to(device)


def rewards(position: Tensor, player: Tensor) -> Tensor:
    """What `player [games]` has won in `position [games, words]`, float32; 0 while a game goes on."""
    return (position[:, RETURN] * (1 - 2 * player)).float()


def random_moves(legal: Tensor, generator: torch.Generator | None) -> Tensor:
    """One of the legal moves of each game, `[games]`, all equally likely; 0 where there is none."""
    return loudest(legal, torch.rand(legal.shape, generator=generator, device=legal.device))


def loudest(legal: Tensor, noise: Tensor) -> Tensor:
    """Of the legal moves `[games, actions]` the one with the greatest `noise`, uniform in [0, 1); 0 where there is
    none."""
    return noise.masked_fill(~legal, -1.0).argmax(1)  # noise may be 0: that of an illegal move is less
