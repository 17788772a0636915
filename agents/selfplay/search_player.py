"""A player that searches with a network before each move: a trained AlphaZero in evaluation and play."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.agents.selfplay.board_networks import BoardNetwork
from rlgym.agents.selfplay.mcts import Found, Settings
from rlgym.agents.selfplay.search import search
from rlgym.games.terminal import Thought

if TYPE_CHECKING:
    from rlgym.games.game import Game

LINE = 12
"""Length of a principal variation."""


class Evaluator:
    """Evaluates positions by a network without gradients; `low`: in bfloat16, on a copy that `refresh` updates."""

    def __init__(self, game: Game, network: BoardNetwork, low: bool = False) -> None:
        self.game, self.network = game, network
        self.copy = deepcopy(network).to(torch.bfloat16) if low else network
        self.dtype = torch.bfloat16 if low else torch.float32

    def refresh(self) -> None:
        """Update the copy from the network."""
        if self.copy is not self.network:
            with torch.no_grad():
                for own, learned in zip(self.copy.parameters(), self.network.parameters(), strict=True):
                    own.copy_(learned)

    @torch.inference_mode()
    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = self.copy(self.game.observe(position).to(self.dtype))
        return logits.float(), value.float()


class SearchPlayer:
    """Plays by search. With `explores` the root has noise in games too, so that no two games are the same."""

    def __init__(
        self, game: Game, evaluate: Evaluator, settings: Settings, explores: bool = False, name: str = "alphazero"
    ) -> None:
        self.game, self.evaluate, self.name = game, evaluate, name
        self.settings = replace(settings, noise=explores)

    @property
    def network(self) -> BoardNetwork:
        return self.evaluate.network

    @property
    def alone(self) -> NetworkPlayer:
        """The network, without search."""
        return NetworkPlayer(self.game, self.evaluate)

    def search(self, position: Tensor, generator: torch.Generator | None = None, line: int = 0) -> Found:
        """Search `position [games, words]`, with principal variations of `line` moves."""
        return search(self.game, position, self.evaluate, replace(self.settings, line=line), generator)

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        return self.search(position, generator).move

    def think(self, position: Tensor) -> Thought:
        """Search one position `[words]`, which must not be terminal."""
        found = self.search(position[None], line=LINE)
        line = [move for move in found.line[0].tolist() if move >= 0]
        return Thought(found.prior[0], found.visits[0], found.policy[0], float(found.value[0]), line)


class NetworkPlayer:
    """Plays the network's most likely legal move, without search."""

    name = "network"

    def __init__(self, game: Game, evaluate: Evaluator) -> None:
        self.game, self.evaluate = game, evaluate

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = self.evaluate(position)
        return torch.where(self.game.legal(position), logits, -torch.inf).argmax(1)
