"""Monte Carlo tree search without a network: UCT (Kocsis & Szepesvari 2006, doi:10.1007/11871842_29) with random
playouts, in many games at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlgym.agents.selfplay.mcts import Settings
from rlgym.agents.selfplay.search import search
from rlgym.games.game import DONE, TURN, Game, random_moves, rewards


class MCTSPlayer:
    """Plays the most visited move after `simulations` random playouts; c = sqrt(2) for returns in [-1, 1]."""

    def __init__(self, game: Game, simulations: int) -> None:
        assert game.perfect_information, "it would look at hidden cards"
        self.game, self.simulations = game, simulations
        self.name = f"mcts_{simulations}"

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        def evaluate(leaf: Tensor) -> tuple[Tensor, Tensor]:
            """Random logits, so that untried moves come in random order, and the result of a random playout."""
            order = torch.rand(len(leaf), self.game.actions, generator=generator, device=leaf.device)
            return order, playout(self.game, leaf, generator)

        settings = Settings(self.simulations, "uct", c_uct=math.sqrt(2))
        return search(self.game, position, evaluate, settings, generator).move


def playout(game: Game, position: Tensor, generator: torch.Generator) -> Tensor:
    """The result of random play from `position [games, words]` for the player to move, `[games]`."""
    player = position[:, TURN]
    value = rewards(position, player)
    going = (position[:, DONE] == 0).nonzero().squeeze(1)
    position, player = position[going], player[going]
    while len(going):
        position = game.play(position, random_moves(game.legal(position), generator))
        over = position[:, DONE] > 0
        if over.any():
            value[going[over]] = rewards(position[over], player[over])
            position, player, going = position[~over], player[~over], going[~over]
    return value
