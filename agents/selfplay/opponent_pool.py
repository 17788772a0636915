"""Past selves as opponents (fictitious self-play: Heinrich et al. 2015, ICML; OpenAI et al. 2019, arXiv:1912.06680,
section 3.3): an agent that only plays its latest self forgets how to beat earlier ones.

At a fixed interval of steps the learner's policy joins the pool. Each new game draws its opponent: with fixed
probabilities random play or one_ply, else a past self - the latest, any, or by its win rate (Vinyals et al. 2019,
doi:10.1038/s41586-019-1724-z, prioritised fictitious self-play).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rlgym.envs.game_ids import POOL
from rlgym.envs.self_play import SelfPlay
from rlgym.games.opponents import PolicyPlayer, usual
from rlgym.games.players import Player
from rlgym.learner import Section
from rlgym.run_folder.records import count
from rlgym.training.load_module import load_module

if TYPE_CHECKING:
    from rlgym.agents.common.base import Agent
    from rlgym.agents.common.policy import Policy
    from rlgym.config.schema import PoolConfig
    from rlgym.games.game import Game

RANDOM, ONE_PLY, FIRST_SELF = 0, 1, 2
"""Keys of opponents; past selves are numbered from the third on."""
WINDOW = 100
"""Window of a win rate, in games, since the learner changes."""
ELO = 400 / math.log(10)


@dataclass
class Record:
    """The learner's record against one opponent; 0.5 before the first game."""

    games: int = 0
    rate: float = 0.5
    """Mean points per game, a draw counting 0.5; an exponential average once the window is full."""

    def add(self, won: float) -> None:
        self.games += 1
        self.rate += ((won > 0) + 0.5 * (won == 0) - self.rate) / (min(self.games, WINDOW) + 1)


@dataclass
class Member:
    """A past self."""

    player: PolicyPlayer
    step: int
    """The step at which it was the learner."""
    record: Record = field(default_factory=Record)
    sitting: int = 0
    """Number of running games against it."""
    retired: bool = False
    """Whether it only finishes those games."""


class Pool:
    """The agent's past selves as `rlgym.envs.self_play.Opponents`."""

    def __init__(self, knobs: PoolConfig, game: Game, agent: Agent) -> None:
        self.knobs, self.game, self.agent = knobs, game, agent
        self.fixed: list[Player] = usual(game)
        self.records = [Record() for _ in self.fixed]
        self.members: dict[int, Member] = {}
        self.next_key, self.next_step = FIRST_SELF, 0

    # ---- the opponent

    def draw(self, uniform: float) -> int:
        """Draw an opponent's key by a number in [0, 1). Adds the learner to the pool first if that is due, as before
        the first game."""
        if self.agent.progress.step >= self.next_step:
            self.join()
        knobs = self.knobs
        if uniform < knobs.random:
            return RANDOM
        if uniform < knobs.random + knobs.one_ply:
            return ONE_PLY if len(self.fixed) > ONE_PLY else RANDOM
        keys, weights = self.weights()
        rest = (uniform - knobs.random - knobs.one_ply) / (1 - knobs.random - knobs.one_ply) * sum(weights)
        reached = [key for key, below in zip(keys, accumulate(weights), strict=True) if rest < below]
        key = reached[0] if reached else keys[-1]
        self.members[key].sitting += 1
        return key

    @property
    def active(self) -> list[int]:
        """Keys of members that may be drawn, oldest first."""
        return [key for key, member in self.members.items() if not member.retired]

    def weights(self) -> tuple[list[int], list[float]]:
        """Keys to draw from, and their unnormalised probabilities."""
        keys = self.active
        if self.knobs.draw == "latest":
            return keys[-1:], [1.0]
        if self.knobs.draw == "uniform":
            return keys, [1.0] * len(keys)
        weights = [(1 - self.members[key].record.rate) ** self.knobs.power for key in keys]
        return keys, weights if any(weights) else [1.0] * len(keys)

    def player(self, key: int) -> Player:
        return self.fixed[key] if key < FIRST_SELF else self.members[key].player

    def finished(self, key: int, won: float) -> None:
        if key < FIRST_SELF:
            self.records[key].add(won)
            return
        member = self.members[key]
        member.record.add(won)
        member.sitting -= 1
        if member.retired and not member.sitting:
            del self.members[key]

    def join(self) -> None:
        """Add the current learner; when full, evict the member that the learner beats most often."""
        step, every = self.agent.progress.step, self.knobs.every
        self.next_step = (step // every + 1) * every
        if len(self.active) >= self.knobs.size:
            gone = max(self.active, key=lambda key: (self.members[key].record.rate, -key))
            self.members[gone].retired = True
            if not self.members[gone].sitting:
                del self.members[gone]
        self.members[self.next_key] = Member(PolicyPlayer(past_self(self.agent), self.game, samples=True), step)
        self.next_key += 1

    # ---- metrics

    def metrics(self) -> dict[str, float]:
        """Win rates by kind of opponent, and the Elo lead over past selves."""
        found = {
            f"self_play/win_rate_{player.name}": record.rate
            for player, record in zip(self.fixed, self.records, strict=True)
            if record.games
        }
        rates = [self.members[key].record.rate for key in self.active]
        *past, latest = rates
        found["self_play/win_rate_latest"] = latest
        if past:
            found["self_play/win_rate_past"] = sum(past) / len(past)
        mean = min(max(sum(rates) / len(rates), 0.001), 0.999)
        found["self_play/rating_ahead"] = ELO * math.log(mean / (1 - mean))
        found["self_play/members"] = float(len(rates))
        return found

    # ---- checkpoints

    def state_dict(self) -> Section:
        state: dict[str, Any] = {
            "next_key": self.next_key,
            "next_step": self.next_step,
            "records": [[record.games, record.rate] for record in self.records],
            "members": [
                [key, member.step, member.record.games, member.record.rate, member.sitting, member.retired]
                for key, member in self.members.items()
            ],
        }
        for key, member in self.members.items():
            state |= {f"{key}.{name}": tensor for name, tensor in weights_of(member.player.policy).items()}
        return state

    def load_state_dict(self, section: Section) -> None:
        state = cast(Mapping[str, Any], section)
        self.next_key, self.next_step = count(state["next_key"]), count(state["next_step"])
        self.records = [Record(count(games), count(rate, 1)) for games, rate in state["records"]]
        self.members = {}
        for key, step, games, rate, sitting, retired in state["members"]:
            policy = past_self(self.agent, part_of(section, str(key)))
            player = PolicyPlayer(policy, self.game, samples=True)
            record = Record(count(games), count(rate, 1))
            self.members[key] = Member(player, count(step), record, count(sitting), bool(retired))


def seated(agent: Agent) -> Pool | None:
    """The pool of the agent's environments, if `env.self_play.opponent` asks for one."""
    config, env = agent.config, agent.env
    if not isinstance(env, SelfPlay) or config.env.self_play.opponent != POOL or not agent.keeps_past_selves:
        return None
    pool = Pool(config.env.self_play.pool, env.game, agent)
    env.opponents = pool
    return pool


def past_self(agent: Agent, weights: Section | None = None) -> Policy:
    """A frozen policy for the agent's game with these `weights` (`weights_of`), or with the learner's current ones. It
    acts on the CPU as a finished policy does (dqn: with its final exploration)."""
    policy = agent.policy_for(agent.config, agent.env, torch.device("cpu"))
    network = cast(nn.Module, policy.network).requires_grad_(False)
    load_module(network, weights_of(agent.policy) if weights is None else weights)
    return policy


def weights_of(policy: Policy) -> dict[str, Tensor]:
    return dict(cast(nn.Module, policy.network).state_dict())


def part_of(section: Section, name: str) -> Section:
    """The entries of a section saved as `<name>.<key>`, by key."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in section.items() if key.startswith(start)}
