"""Tree search in many games at once: on tensors, or on a CPU with compiled tree operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.agents.selfplay.mcts import Evaluate, Found, Search, Settings

if TYPE_CHECKING:
    from rlgym.games.game import Game


@torch.inference_mode()
def search(
    game: Game, position: Tensor, evaluate: Evaluate, settings: Settings, generator: torch.Generator | None
) -> Found:
    """Run `settings.simulations` simulations in each game of `position [games, words]`; on the device of positions and
    `generator`."""
    return kind_of_search(position.device)(game, position, evaluate, settings, generator).run()


def kind_of_search(device: torch.device) -> type[Search]:
    """The search's class for a device: compiled on a CPU."""
    if device.type != "cpu":
        return Search
    from rlgym.agents.selfplay.mcts_compiled import CompiledSearch  # here: it loads compiled code

    return CompiledSearch
