"""Elo ratings of an agent over its evaluations: against random and one_ply, and against its earlier selves.

Ratings link the evaluations of a run: each one plays the fixed opponents, the previous and the best self, so that
forgetting shows even when all of them beat one_ply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from rlgym.agents.selfplay.opponent_pool import Pool, part_of, past_self, seated, weights_of
from rlgym.errors import RequestError
from rlgym.games import make_game
from rlgym.games.evaluation import evaluate_player
from rlgym.games.game import Game, random_moves
from rlgym.games.match import play_games
from rlgym.games.opponents import PolicyPlayer, usual
from rlgym.games.players import Player
from rlgym.games.ratings import Ladder
from rlgym.learner import Evaluation, Section

if TYPE_CHECKING:
    from rlgym.agents.common.base import Agent
    from rlgym.agents.common.policy import Policy

OPENING = 2
"""Random opening moves for two deterministic policies, which would otherwise repeat one game."""


class Standings:
    """The ladder of a run's evaluations."""

    def __init__(self, game: Game, agent: Agent) -> None:
        self.game, self.agent = game, agent
        self.opponents = usual(game)
        self.ladder = Ladder()
        self.rivals: dict[str, Policy] = {}
        """Past selves in the next evaluation: the previous and the best."""

    def evaluate(self, games: int, seed: int) -> Evaluation:
        """Play `games` against each opponent (`rlgym.games.evaluation.evaluate_player`). Adds `eval/rating`, its 95 %
        interval `eval/rating_low` to `eval/rating_high`, and `eval/rating_behind_best`: the lead of the best so far."""
        name = f"step_{self.agent.progress.step}"
        player = PolicyPlayer(self.agent.policy, self.game)
        found = evaluate_player(self.game, player, self.opponents, games, seed)
        if any(name in pair for pair in self.ladder.games):  # a resume evaluates its last step again
            return found
        for opponent in self.opponents:
            won = [e["return"] for e in found.records["episodes"] if e["opponent"] == opponent.name]
            self.ladder.add(name, opponent.name, *outcomes(torch.tensor(won)))
        generator = torch.Generator().manual_seed(seed)
        for rival, of_rival in self.rivals.items():
            won_by = rounds(self.game, player, PolicyPlayer(of_rival, self.game), games, generator)
            self.ladder.add(name, rival, *outcomes(won_by))
        ratings = self.ladder.ratings()
        selves = {each: elo for each, (elo, _, _) in ratings.items() if each.startswith("step_")}
        best = max(selves, key=lambda each: selves[each])
        elo, low, high = ratings[name]
        found.metrics["eval/rating"] = elo
        found.metrics["eval/rating_low"], found.metrics["eval/rating_high"] = low, high
        found.metrics["eval/rating_behind_best"] = selves[best] - elo
        if not self.agent.keeps_past_selves:
            return found
        kept = {each: rival for each, rival in self.rivals.items() if each == best}
        self.rivals = {**kept, name: past_self(self.agent)}
        return found

    def state_dict(self) -> Section:
        weights = {f"{name}.{key}": x for name, policy in self.rivals.items() for key, x in weights_of(policy).items()}
        return {"ladder": self.ladder.state_dict(), "rivals": list(self.rivals), **weights}

    def load_state_dict(self, section: Section) -> None:
        state = cast(Mapping[str, Any], section)
        self.ladder.load_state_dict(state["ladder"])
        self.rivals = {}
        for name in state["rivals"]:
            self.rivals[name] = past_self(self.agent, part_of(section, name))


def opponents_and_ratings(agent: Agent) -> tuple[Pool | None, Standings]:
    """The opponents and ratings of an agent whose environment is a game. RequestError for recurrent agents."""
    config = agent.config
    recurrent = getattr(config.agent, "recurrent", "none")
    if recurrent != "none":
        raise RequestError(
            f"agent.recurrent={recurrent}: an observation of env={config.env.id} tells all that a player has seen; "
            "agent.recurrent=none would do"
        )
    return seated(agent), Standings(make_game(config.env.id), agent)


def rounds(game: Game, player: Player, other: Player, games: int, generator: torch.Generator) -> Tensor:
    """Results of `player` in `games` games (rounded up to even), from random openings, each played from both seats."""
    opening = game.init(-(-games // 2), generator=generator)
    if game.perfect_information:
        for _ in range(OPENING):
            opening = game.step(opening, random_moves(game.legal(opening), generator))
    first = play_games(game, [player, other], opening, generator).won
    return torch.cat([first, -play_games(game, [other, player], opening, generator).won])


def outcomes(won: Tensor) -> tuple[int, int, int]:
    """Numbers of games won, drawn and lost, from the results `[games]`."""
    return int((won > 0).sum()), int((won == 0).sum()), int((won < 0).sum())
