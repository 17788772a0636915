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
    """`games` finished games: what player 0 won `[games]`, how many moves each had `[games]`, and the moves themselves
    `[games, moves]`, -1 behind a game's end."""

    won: Tensor
    length: Tensor
    moves: Tensor


def play_games(
    game: Game, players: Sequence[Player], position: Tensor, generator: torch.Generator, moves: int | None = None
) -> Played:
    """Both players from `position [games, words]` to the end; `players[0]` moves where TURN is 0. Of at most `moves`,
    where given: then some games may not be over, and count as won by nobody."""
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
    """What a player made of `games` games from one seat."""

    games: int
    wins: int
    draws: int
    losses: int
    mean: float
    """Mean return."""

    @property
    def rate(self) -> float:
        """Points a game: a win 1, a draw a half."""
        return (self.wins + 0.5 * self.draws) / max(1, self.games)


def versus(
    game: Game, player: Player, other: Player, games: int, seed: int, device: torch.device | str = "cpu"
) -> tuple[Score, Score]:
    """`player` against `other` in `games` games from each seat: as the first to move, and as the second."""
    generator = torch.Generator(device).manual_seed(seed)
    scores = []
    for seat in (0, 1):
        players = [player, other] if seat == 0 else [other, player]
        won = play_games(game, players, game.init(games, device, generator), generator).won * (1 - 2 * seat)
        wins, losses = int((won > 0).sum()), int((won < 0).sum())
        scores.append(Score(games, wins, games - wins - losses, losses, float(won.float().mean())))
    return scores[0], scores[1]
