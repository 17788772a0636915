"""Who can play a game: anything that chooses moves for a batch of positions. Here are those that need no training."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rlgym.games.game import Game, random_moves, rewards


class Player(Protocol):
    name: str

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        """Legal moves `[games]` for whoever is to move in `position [games, words]`, none of which is over. What it
        knows is what that player sees; what it draws comes from `generator`, on the positions' device."""
        ...


class RandomPlayer:
    """Any legal move."""

    name = "random"

    def __init__(self, game: Game) -> None:
        self.game = game

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        return random_moves(self.game.legal(position), generator)


class OnePlyPlayer:
    """A move that wins at once where there is one, else any."""

    name = "one_ply"

    def __init__(self, game: Game) -> None:
        assert game.perfect_information, "it would look at hidden cards"
        self.game = game

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        legal = self.game.legal(position)
        wins = winning(self.game, position, legal)
        return random_moves(torch.where(wins.any(1, keepdim=True), wins, legal), generator)


def winning(game: Game, position: Tensor, legal: Tensor) -> Tensor:
    """Which moves win at once, `[games, actions]` bool."""
    row, action = legal.nonzero(as_tuple=True)
    before = position[row]
    after = game.play(before, action)
    wins = torch.zeros_like(legal)
    wins[row, action] = rewards(after, before[:, 0]) > 0
    return wins
