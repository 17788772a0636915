"""The network of a self-play agent as a policy in the game's environment, without search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rlgym.agents.common.distributions import Categorical
from rlgym.agents.common.networks import Encoder
from rlgym.agents.common.policy import Policy

if TYPE_CHECKING:
    from rlgym.envs.batch import BatchEnv
    from rlgym.envs.spaces import Leaf

BOARD = "observation"
"""The leaf with the position; another one holds the legal moves."""


class GameNetwork(nn.Module):
    """From `{"observation": [batch, *game.shape]}` to a logit for each move, legal or not, `[batch, actions]`."""

    actor = log_std = None

    def __init__(self, network: Any, leaves: tuple[Leaf, ...]) -> None:
        super().__init__()
        self.network, self.encoder = network, Encoder(leaves)

    def policy(self, obs: dict[str, Tensor]) -> Tensor:
        found = self.network(obs[BOARD])
        logits: Tensor = found[0] if isinstance(found, tuple) else found  # AlphaZero's networks also return a value
        return logits


def game_policy(network: nn.Module, env: BatchEnv) -> Policy:
    leaves = tuple(leaf for leaf in env.leaves if leaf.name == BOARD)
    space: Any = env.action_space
    return Policy(GameNetwork(network, leaves), Categorical(int(space.n)), space)
