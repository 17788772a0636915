"""A game as an environment for one learner: the opponent moves inside `step`, and inside `reset` where it moves first.
Observations are {"observation", "action_mask"}, the learner's view of the board and its legal moves; the mask is in the
info, too. The reward is the learner's result at the game's end. An illegal move loses the game.
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from torch import Tensor

from rlgym.envs.batch import BatchEnv, Step, Tally
from rlgym.envs.game_ids import POOL
from rlgym.envs.native import pack_generators, saved, unpack_generators
from rlgym.envs.spaces import Array, Obs
from rlgym.errors import RequestError
from rlgym.games import make_game
from rlgym.games.game import DONE, RETURN, TURN, Game, rewards
from rlgym.games.opponents import make_player, seen
from rlgym.games.players import Player
from rlgym.learner import Section


class Opponents(Protocol):
    """The opponent, game by game."""

    def draw(self, uniform: float) -> int:
        """The key of the opponent in a new game, determined by `uniform` in [0, 1)."""
        ...

    def player(self, key: int) -> Player: ...

    def finished(self, key: int, won: float) -> None:
        """Called when a game against `key` ends, with the learner's result."""
        ...


class Always:
    """A fixed opponent."""

    def __init__(self, player: Player) -> None:
        self.only = player

    def draw(self, uniform: float) -> int:
        return 0

    def player(self, key: int) -> Player:
        return self.only

    def finished(self, key: int, won: float) -> None:
        pass


class Tables:
    """Parallel games of a learner and an opponent, one per table. All randomness of a game (seat, deal, opponent, the
    opponent's moves) is drawn at its start from the table's own generator. A table's game therefore does not depend on
    the batch, and follows from the generator's state at its start and the learner's moves. An opponent that searches
    uses a generator seeded by this noise, so its moves are equal only in equal batches.
    """

    def __init__(self, game: Game, tables: int, seat: str, opponents: Opponents) -> None:
        """`seat`: the learner's, first, second or random."""
        self.game, self.opponents = game, opponents
        self.fixed_seat = {"first": 0, "second": 1}.get(seat)
        self.starts, probability = game.starts()
        self.cumulative = probability.cumsum(0).numpy()
        self.cumulative[-1] = 1.0  # exactly 1, so that every uniform number is below it
        self.generators: list[np.random.Generator] = []
        self.position = self.starts[:1].repeat(tables, 1)
        self.seat = torch.full((tables,), self.fixed_seat or 0)
        self.opponent = torch.zeros(tables, dtype=torch.int64)
        """Keys of `opponents`."""
        self.replies = torch.zeros(tables, dtype=torch.int64)
        """Number of moves the opponent has made."""
        self.noise = torch.zeros(tables, game.max_moves, game.actions)
        """Noise for the opponent's moves."""
        self.legal = game.legal(self.position)

    def begin(self, tables: list[int]) -> None:
        """Start new games at `tables`, up to the learner's first turn."""
        drawn, noise = np.empty((len(tables), 3)), self.noise.numpy()
        for row, table in zip(drawn, tables, strict=True):
            self.generators[table].random(out=row)
            noise[table] = self.generators[table].random(noise.shape[1:])  # 64 bits each: see pack_generators
        of_seat, of_deal, of_opponent = drawn.T
        if self.fixed_seat is None:
            self.seat[tables] = torch.from_numpy((of_seat >= 0.5).astype(np.int64))
        self.position[tables] = self.starts[np.searchsorted(self.cumulative, of_deal, side="right")]
        self.opponent[tables] = torch.tensor([self.opponents.draw(uniform) for uniform in of_opponent.tolist()])
        self.replies[tables] = 0
        self.answer()

    def move(self, actions: Array) -> tuple[Tensor, Tensor]:
        """Play the learner's moves `[tables]` and the replies up to its next turn. Returns its rewards `[tables]`
        float32 and which games are over, `[tables]` bool."""
        action = torch.from_numpy(np.asarray(actions, np.int64))
        allowed = self.legal.gather(1, action[:, None]).squeeze(1)
        if allowed.all():
            self.position = self.game.play(self.position, action)
        else:
            after = self.game.play(self.position, torch.where(allowed, action, self.legal.int().argmax(1)))
            lost = self.position.clone()
            lost[:, DONE], lost[:, RETURN] = 1, -self.game.max_return * (1 - 2 * self.seat)
            self.position = torch.where(allowed[:, None], after, lost)
        self.answer()
        over = self.position[:, DONE] > 0
        won = rewards(self.position, self.seat)
        for table in over.nonzero().squeeze(1).tolist():
            self.opponents.finished(int(self.opponent[table]), float(won[table]))
        return won, over

    def answer(self) -> None:
        """Play the opponents' moves until each game is over or waits for the learner."""
        while True:
            waits = (self.position[:, DONE] == 0) & (self.position[:, TURN] != self.seat)
            tables = waits.nonzero().squeeze(1)
            if not len(tables):
                break
            self.position[tables] = self.game.play(self.position[tables], self.chosen(tables))
            self.replies[tables] += 1
        self.legal = self.game.legal(self.position)

    def chosen(self, tables: Tensor) -> Tensor:
        """Moves `[n]` of the opponents at `tables [n]`, one call per opponent."""
        keys, position = self.opponent[tables], self.position[tables]
        noise = self.noise[tables, self.replies[tables]]
        present = keys.unique().tolist()
        if len(present) == 1:
            return reply(self.opponents.player(present[0]), position, noise)
        action = torch.empty_like(keys)
        for key in present:
            at = (keys == key).nonzero().squeeze(1)
            action[at] = reply(self.opponents.player(key), position[at], noise[at])
        return action

    def observe(self) -> Obs:
        return seen(self.game, self.position, self.legal, self.seat)


def reply(player: Player, position: Tensor, noise: Tensor) -> Tensor:
    """A player's moves in `position [games, words]`, from `noise [games, actions]` where it supports that, else from a
    generator seeded by the noise."""
    if hasattr(player, "by_noise"):
        chosen: Tensor = player.by_noise(position, noise)
        return chosen
    seed = (noise[0].double() * 2**24).long().remainder(2**24)
    return player.choose(position, torch.Generator().manual_seed(int(seed[0] * 2**24 + seed[-1])))


def observation_space(game: Game) -> spaces.Dict:
    return spaces.Dict(
        {
            "observation": spaces.Box(0.0, 1.0, game.shape, np.float32),
            "action_mask": spaces.MultiBinary(game.actions),
        }
    )


class SelfPlay(BatchEnv):
    """`num_envs` tables with same-step autoreset. Table i equals a `SelfPlayEnv` seeded with seed + i."""

    backend = "native"

    def __init__(self, id: str, num_envs: int, opponent: str, seat: str = "random") -> None:
        """`opponent`: its name; with `pool` an agent must set `opponents` before the first reset."""
        self.game = make_game(id)
        super().__init__(id, num_envs, observation_space(self.game), spaces.Discrete(self.game.actions))
        self.opponent, self.seat = opponent, seat
        self.opponents: Opponents | None = None
        self._tally = Tally(num_envs)

    @property
    def tables(self) -> Tables:
        """Built at the first use, so that a policy can be loaded without its opponent."""
        if not hasattr(self, "_tables"):
            if self.opponents is None:
                self.opponents = Always(opponent_of(self.opponent, self.game))
            self._tables = Tables(self.game, self.num_envs, self.seat, self.opponents)
        return self._tables

    def reset(self, seed: int) -> Obs:
        self.tables.generators = [np_random(seed + i)[0] for i in range(self.num_envs)]
        self.tables.begin(list(range(self.num_envs)))
        self._tally.clear()
        return self._observe()

    def _observe(self) -> Obs:
        obs = self.tables.observe()
        self.action_mask = self.tables.legal.numpy()
        return obs

    def step(self, actions: Array) -> Step:
        won, over = self.tables.move(actions)
        reward, terminated = won.double().numpy(), over.numpy()
        self._tally.returns += reward
        self._tally.lengths += 1
        truncated = np.zeros(self.num_envs, bool)
        ended = terminated.nonzero()[0].tolist()
        if not ended:
            return Step(self._observe(), reward, terminated, truncated, action_mask=self.action_mask)
        final = self._observe()
        self.tables.begin(ended)
        episodes = self._tally.finish(ended)
        obs = self._observe()
        return Step(obs, reward, terminated, truncated, final, action_mask=self.action_mask, episodes=episodes)

    def state_dict(self) -> Section:
        tables = self.tables
        return {
            "generators": torch.from_numpy(pack_generators(tables.generators)),
            "position": tables.position.clone(),
            "seat": tables.seat.clone(),
            "opponent": tables.opponent.clone(),
            "replies": tables.replies.clone(),
            "noise": tables.noise.clone(),
            "returns": torch.from_numpy(self._tally.returns.copy()),
            "lengths": torch.from_numpy(self._tally.lengths.copy()),
        }

    def load_state_dict(self, section: Section) -> Obs:
        tables = self.tables
        tables.generators = unpack_generators(saved(section, "generators", (self.num_envs, 4)))
        most = {"seat": 1, "replies": self.game.max_moves}
        for name in ("position", "seat", "opponent", "replies", "noise"):
            own = getattr(tables, name)
            own[:] = torch.from_numpy(saved(section, name, tuple(own.shape), most.get(name)))
        tables.legal = self.game.legal(tables.position)
        self._tally.returns[:] = saved(section, "returns", self._tally.returns.shape)
        self._tally.lengths[:] = saved(section, "lengths", self._tally.lengths.shape)
        return self._observe()


class SelfPlayEnv(gym.Env[Any, Any]):
    """One table as a Gymnasium environment: `gymnasium.make("connect_four", opponent="one_ply")`."""

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}

    def __init__(
        self, game: str, opponent: str = "random", seat: str = "random", render_mode: str | None = None
    ) -> None:
        """`opponent`: random, one_ply, mcts_K or a run; `seat`: the learner's seat, first, second or random."""
        self.game, self.render_mode = make_game(game), render_mode
        self.observation_space = observation_space(self.game)
        self.action_space = spaces.Discrete(self.game.actions)
        self.tables = Tables(self.game, 1, seat, Always(opponent_of(opponent, self.game)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        super().reset(seed=seed)
        self.tables.generators = [self.np_random]
        self.tables.begin([0])
        return self._observe()

    def step(self, action: Any) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        if not self.tables.generators or self.tables.position[0, DONE]:
            raise gym.error.ResetNeeded("the game is over, or none has begun: call reset first")
        won, over = self.tables.move(np.asarray([action]))
        obs, info = self._observe()
        return obs, float(won[0]), bool(over[0]), False, info

    def _observe(self) -> tuple[dict[str, Array], dict[str, Any]]:
        obs = {name: batch[0] for name, batch in self.tables.observe().items()}
        return obs, {"action_mask": obs["action_mask"], "seat": int(self.tables.seat[0])}

    def render(self) -> Any:
        position = self.tables.position[0]
        if self.render_mode == "ansi":
            return self.game.text_for(position, int(self.tables.seat[0]))
        return self.game.image(position) if self.render_mode == "rgb_array" else None


def opponent_of(word: str, game: Game) -> Player:
    if word == POOL:
        raise RequestError(
            f"env.self_play.opponent={POOL} needs an agent that keeps its past selves, as agent=ppo and agent=dqn do; "
            "random, one_ply, mcts_K or a RUN would do"
        )
    return make_player(word, game)
