"""The interface of two-player zero-sum games: pure functions on batches of positions, on any device. A position is a
row of int64 words. Three of them have the same meaning in every game, the others are the game's own:

    TURN     the player to move: 0 (who began) or 1
    DONE     1 once the game is over
    RETURN   then what player 0 has won; player 1 has won its negative

Positions can therefore be stored, indexed and compared without knowing the game. Chance acts only before the first
move: a deal is one of `starts`.
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
"""Index of the first game-specific word."""


class Game(ABC):
    """Base class. A game is one file with a subclass, listed in `rlgym.games.GAMES` and checked by
    tests/games/test_every_game.py."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for the help."""
    words: ClassVar[int]
    actions: ClassVar[int]
    shape: ClassVar[tuple[int, ...]]
    """Shape of an observation: [planes, rows, columns] for boards, else [features]."""
    max_moves: ClassVar[int]
    """Maximum length of a game, in moves."""
    max_return: ClassVar[int] = 1
    """The largest return."""
    perfect_information: ClassVar[bool] = True
    """Whether an observation contains the whole position; otherwise it contains all that a player has observed (perfect
    recall)."""

    # ---- the rules

    @abstractmethod
    def starts(self) -> tuple[Tensor, Tensor]:
        """All initial positions `[n, words]` and their probabilities `[n]` float64."""

    @abstractmethod
    def legal(self, position: Tensor) -> Tensor:
        """Legal moves of `position [games, words]`: `[games, actions]` bool; none where DONE."""

    @abstractmethod
    def play(self, position: Tensor, action: Tensor) -> Tensor:
        """The positions `[games, words]` after the legal moves `action [games]`; no game may be over."""

    @abstractmethod
    def observe(self, position: Tensor, player: Tensor | None = None) -> Tensor:
        """Observations of `player [games]` (None: the player to move), from that player's side: `[games, *shape]`
        float32."""

    # ---- for people

    @abstractmethod
    def text(self, position: Tensor) -> str:
        """One position `[words]` as text, with full information."""

    def text_for(self, position: Tensor, player: int) -> str:
        """The same as seen by `player`."""
        assert self.perfect_information, "hidden cards would be shown"
        return self.text(position)

    @abstractmethod
    def image(self, position: Tensor) -> Array:
        """One position `[words]` as a picture, `[height, width, 3]` uint8."""

    @abstractmethod
    def move_name(self, action: int) -> str:
        """The unique notation of a move."""

    # ---- what follows from these

    def init(self, games: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
        """Initial positions `[games, words]`; deals are drawn by `generator`, on the same device."""
        starts, bounds = starts_on(self, torch.device(device))
        if len(starts) == 1:
            return starts.repeat(games, 1)
        drawn = torch.rand(games, generator=generator, device=device, dtype=torch.float64)
        return starts[torch.searchsorted(bounds, drawn, right=True)]

    def step(self, position: Tensor, action: Tensor) -> Tensor:
        """`play` in running games; finished ones stay unchanged, whatever their `action`."""
        return torch.where(position[:, DONE : DONE + 1] > 0, position, self.play(position, action))

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """Symmetries of the game as permutations of cells `[n, rows * columns]` and actions `[n, actions]`, identity
        first. Symmetry s maps planes to `planes.flatten(-2)[..., cells[s]]` and a policy to `policy[..., actions[s]]`.
        """
        cells = self.shape[-2] * self.shape[-1] if len(self.shape) == 3 else 0
        return torch.arange(cells)[None], torch.arange(self.actions)[None]

    def parse_move(self, text: str) -> int | None:
        """Parse a move, case-insensitively; None if `text` is none."""
        return self._by_name.get(text.strip().lower())

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {self.move_name(action).lower(): action for action in range(self.actions)}


@cache
def starts_on(game: Game, device: torch.device) -> tuple[Tensor, Tensor]:
    """The starts `[n, words]`, and their cumulative probabilities without the last, `[n - 1]` float64."""
    starts, probability = game.starts()
    return starts.to(device), probability.cumsum(0)[:-1].to(device)


def rewards(position: Tensor, player: Tensor) -> Tensor:
    """Returns of `player [games]` in `position [games, words]`, float32; 0 in running games."""
    return (position[:, RETURN] * (1 - 2 * player)).float()


def random_moves(legal: Tensor, generator: torch.Generator | None) -> Tensor:
    """A uniformly random legal move of each game, `[games]`; 0 where there is none."""
    return loudest(legal, torch.rand(legal.shape, generator=generator, device=legal.device))


def loudest(legal: Tensor, noise: Tensor) -> Tensor:
    """The legal move `[games, actions]` with the largest `noise`, uniform in [0, 1); 0 where there is none."""
    return noise.masked_fill(~legal, -1.0).argmax(1)  # noise may be 0; illegal moves are below it
