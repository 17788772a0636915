"""Players choose moves for a batch of positions. This file has those that need no training."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rlgym.games.game import Game, loudest, random_moves, rewards


class Player(Protocol):
    name: str

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        """Legal moves `[games]` for the player to move in `position [games, words]`; no game may be over. Uses only the
        player's observation; randomness comes from `generator`, on the positions' device."""
        ...


class RandomPlayer:
    """Any legal move."""

    name = "random"

    def __init__(self, game: Game) -> None:
        self.game = game

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        return random_moves(self.game.legal(position), generator)

    def by_noise(self, position: Tensor, noise: Tensor) -> Tensor:
        """`choose` by `noise [games, actions]`, uniform in [0, 1), so that a game does not depend on others in the
        batch."""
        return loudest(self.game.legal(position), noise)


class OnePlyPlayer:
    """Plays a move that wins at once if there is one, else a random one."""

    name = "one_ply"

    def __init__(self, game: Game) -> None:
        assert game.perfect_information, "it would look at hidden cards"
        self.game = game

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        return random_moves(self.candidates(position), generator)

    def by_noise(self, position: Tensor, noise: Tensor) -> Tensor:
        """As RandomPlayer's."""
        return loudest(self.candidates(position), noise)

    def candidates(self, position: Tensor) -> Tensor:
        """The moves between which it is indifferent, `[games, actions]` bool."""
        legal = self.game.legal(position)
        wins = winning(self.game, position, legal)
        return torch.where(wins.any(1, keepdim=True), wins, legal)


def winning(game: Game, position: Tensor, legal: Tensor) -> Tensor:
    """Which moves win at once, `[games, actions]` bool."""
    row, action = legal.nonzero(as_tuple=True)
    before = position[row]
    after = game.play(before, action)
    wins = torch.zeros_like(legal)
    wins[row, action] = rewards(after, before[:, 0]) > 0
    return wins
