"""Networks of policy and value for board positions. Residual, without normalisation: each block's last layer is
initialised to zero, so that a deep network starts as a shallow one (Zhang et al. 2019, "Fixup", arXiv:1901.09321) and
computes the same in training and in play.

On one thread of a CPU two blocks of 256 over all planes evaluate about ten times as many positions a second as a 3 x 32
tower of convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.agents.common.networks import orthogonal
from rlgym.config.memory import require_memory

if TYPE_CHECKING:
    from rlgym.games.game import Game

HEAD = 8
"""Channels that the heads of a convolutional network read."""


class BoardNetwork(nn.Module):
    """From observations `[batch, *game.shape]` to logits `[batch, actions]` of moves, legal or not, and the value
    `[batch]` for the player to move, within the game's returns."""

    def __init__(self, game: Game, kind: str, width: int, blocks: int) -> None:
        super().__init__()
        self.actions, self.max_return = game.actions, float(game.max_return)
        self.body: nn.Module
        inputs, kernel = (game.shape[0], 9) if kind == "conv" else (math.prod(game.shape), 1)
        require_memory(16 * kernel * width * (inputs + 2 * blocks * width))  # weights, gradients, Adam's two moments
        if kind == "conv":
            planes, rows, columns = game.shape
            self.body = Convolutions(planes, width, blocks)
            features = HEAD * rows * columns
        else:
            self.body = Layers(math.prod(game.shape), width, blocks)
            features = width
        self.head = orthogonal(nn.Linear(features, game.actions + 1), 0.01)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = self.head(self.body(planes)).split((self.actions, 1), 1)
        return logits, torch.tanh(value.squeeze(1)) * self.max_return


class Layers(nn.Module):
    """Linear layers over all planes at once, `[batch, ...]` to `[batch, width]`."""

    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = orthogonal(nn.Linear(inputs, width), math.sqrt(2))
        self.blocks = nn.ModuleList(
            nn.ModuleList((orthogonal(nn.Linear(width, width), math.sqrt(2)), orthogonal(nn.Linear(width, width), 0.0)))
            for _ in range(blocks)
        )

    def forward(self, planes: Tensor) -> Tensor:
        x = F.relu(self.stem(planes.flatten(1)))
        for first, second in pairs(self.blocks):
            x = F.relu(x + second(F.relu(first(x))))
        return x


class Convolutions(nn.Module):
    """3x3 convolutions, `[batch, planes, rows, columns]` to `[batch, HEAD * rows * columns]`."""

    def __init__(self, planes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = orthogonal(nn.Conv2d(planes, width, 3, padding=1), math.sqrt(2))
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                (
                    orthogonal(nn.Conv2d(width, width, 3, padding=1), math.sqrt(2)),
                    orthogonal(nn.Conv2d(width, width, 3, padding=1), 0.0),
                )
            )
            for _ in range(blocks)
        )
        self.last = orthogonal(nn.Conv2d(width, HEAD, 1), math.sqrt(2))

    def forward(self, planes: Tensor) -> Tensor:
        # Channels last: up to twice as fast on a CPU, and what a GPU's tensor cores want.
        x = F.relu(self.stem(planes.contiguous(memory_format=torch.channels_last)))
        for first, second in pairs(self.blocks):
            x = F.relu(x + second(F.relu(first(x))))
        return F.relu(self.last(x)).flatten(1)


def pairs(blocks: nn.ModuleList) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The two layers of each block."""
    for block in blocks:
        assert isinstance(block, nn.ModuleList)
        yield block[0], block[1]
