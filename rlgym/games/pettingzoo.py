"""The games as PettingZoo environments (AEC, turn by turn): `rlgym.games.pettingzoo.env("connect_four")`.

Agents are player_0, which moves first, and player_1; they observe {"observation", "action_mask"}, with an empty mask
out of turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from pettingzoo import AECEnv
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, OrderEnforcingWrapper, TerminateIllegalWrapper

from rlgym.envs.self_play import observation_space
from rlgym.envs.spaces import Array
from rlgym.games import make_game
from rlgym.games.game import DONE, RETURN, TURN
from rlgym.games.opponents import seen

PLAYERS = ["player_0", "player_1"]


def env(game: str, render_mode: str | None = None) -> Any:
    """The environment with PettingZoo's usual wrappers: an illegal move loses the game."""
    made: Any = GameEnv(game, render_mode)
    made = TerminateIllegalWrapper(made, illegal_reward=-made.game.max_return)
    return OrderEnforcingWrapper(AssertOutOfBoundsWrapper(made))


class GameEnv(AECEnv):  # type: ignore[misc]  # published without type hints
    """One game; its only randomness is the deal, from the seed of `reset`."""

    def __init__(self, game: str, render_mode: str | None = None) -> None:
        super().__init__()
        self.game, self.render_mode = make_game(game), render_mode
        self.metadata = {
            "name": game,
            "render_modes": ["ansi", "rgb_array"],
            "render_fps": 2,
            "is_parallelizable": False,
        }
        self.possible_agents = list(PLAYERS)
        self.observation_spaces = {player: observation_space(self.game) for player in PLAYERS}
        self.action_spaces = {player: spaces.Discrete(self.game.actions) for player in PLAYERS}
        self.starts, probability = self.game.starts()
        self.probability = probability.numpy() / probability.numpy().sum()
        self.generator, _ = np_random(None)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        if seed is not None:
            self.generator, _ = np_random(seed)
        deal = int(self.generator.choice(len(self.starts), p=self.probability))
        self.position = self.starts[deal : deal + 1].clone()
        self.agents = list(PLAYERS)
        self.rewards = dict.fromkeys(PLAYERS, 0.0)
        self._cumulative_rewards = dict.fromkeys(PLAYERS, 0.0)
        self.terminations = dict.fromkeys(PLAYERS, False)
        self.truncations = dict.fromkeys(PLAYERS, False)
        self.infos: dict[str, dict[str, Any]] = {player: {} for player in PLAYERS}
        self.agent_selection = PLAYERS[int(self.position[0, TURN])]

    def observe(self, agent: str) -> dict[str, Array]:
        player = torch.tensor([PLAYERS.index(agent)])
        legal = self.game.legal(self.position) & (self.position[:, TURN] == player)[:, None]
        return {name: batch[0] for name, batch in seen(self.game, self.position, legal, player).items()}

    def step(self, action: Any) -> None:
        if self.terminations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[self.agent_selection] = 0.0
        self.position = self.game.play(self.position, torch.from_numpy(np.asarray([action], np.int64)))
        if self.position[0, DONE]:
            won = float(self.position[0, RETURN])
            self.rewards = {PLAYERS[0]: won, PLAYERS[1]: -won}
            self.terminations = dict.fromkeys(PLAYERS, True)
        self.agent_selection = PLAYERS[int(self.position[0, TURN])]
        self._accumulate_rewards()

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return self.game.text(self.position[0])
        return self.game.image(self.position[0]) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        pass
