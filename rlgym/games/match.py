"""Games between two players, many at once, and their results from either seat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlgym.games.game import DONE, RETURN, TURN, Game
from rlgym.games.players import Player


@dataclass
class Played:
    """`games` finished games: returns of player 0 `[games]`, numbers of moves `[games]`, and the moves `[games,
    moves]`, -1 after a game's end."""

    won: Tensor
    length: Tensor
    moves: Tensor


def play_games(
    game: Game, players: Sequence[Player], position: Tensor, generator: torch.Generator, moves: int | None = None
) -> Played:
    """Play from `position [games, words]` to the end; `players[0]` moves where TURN is 0. At most `moves` moves if
    given; unfinished games then count as draws."""
    played = []
    for _ in range(game.max_moves if moves is None else moves):
        going = position[:, DONE] == 0
        if not going.any():
            break
        action = torch.full_like(position[:, 0], -1)
        for seat, player in enumerate(players):
            rows = (going & (position[:, TURN] == seat)).nonzero().squeeze(1)
            if len(rows):
                action[rows] = player.choose(position[rows], generator)
        position = game.step(position, action.clamp(min=0))
        played.append(action)
    found = torch.stack(played, 1) if played else position[:, :0]
    return Played(position[:, RETURN], (found >= 0).sum(1), found)


@dataclass
class Score:
    """Results of a player in `games` games from one seat."""

    games: int
    wins: int
    draws: int
    losses: int
    mean: float
    """Mean return."""

    @property
    def rate(self) -> float:
        """Points per game: a win 1, a draw 0.5."""
        return (self.wins + 0.5 * self.draws) / max(1, self.games)


def versus(
    game: Game, player: Player, other: Player, games: int, seed: int, device: torch.device | str = "cpu"
) -> tuple[Score, Score]:
    """Play `games` games of `player` against `other` from each seat: moving first, and moving second."""
    generator = torch.Generator(device).manual_seed(seed)
    scores = []
    for seat in (0, 1):
        players = [player, other] if seat == 0 else [other, player]
        won = play_games(game, players, game.init(games, device, generator), generator).won * (1 - 2 * seat)
        wins, losses = int((won > 0).sum()), int((won < 0).sum())
        scores.append(Score(games, wins, games - wins - losses, losses, float(won.float().mean())))
    return scores[0], scores[1]
