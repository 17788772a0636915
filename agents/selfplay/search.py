"""`search`: tree search in many games at once, by the trees as tensors or, on a CPU, by the compiled ones."""

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
    """`settings.simulations` simulations in each game of `position [games, words]`; on the positions' device, where
    `generator` lives too."""
    return kind_of_search(position.device)(game, position, evaluate, settings, generator).run()


def kind_of_search(device: torch.device) -> type[Search]:
    """On a CPU the compiled one."""
    if device.type != "cpu":
        return Search
    from rlgym.agents.selfplay.mcts_compiled import CompiledSearch  # loads compiled code, which takes a moment

    return CompiledSearch
