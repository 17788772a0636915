"""Evaluating a player: games against others from either seat, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rlgym.games.game import Game
from rlgym.games.match import play_games
from rlgym.games.players import Player
from rlgym.learner import Evaluation

SEATS = ("first", "second")


def evaluate_player(
    game: Game,
    player: Player,
    opponents: Sequence[Player],
    games: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Play `games` games of `player` against each of `opponents`, half from each seat (an odd one as the first).

    Metrics: for each opponent `eval/<name>/win_rate` (points a game, a draw being a half) and the same by seat,
    `.../win_rate_first` and `.../win_rate_second`; `eval/mean_reward`, `eval/std_reward` and `eval/mean_ep_length`
    (moves of both) over all games. Records: {"seed", "episodes": [{"return", "length", "opponent", "seat"}, ...],
    "first_moves": [how often the player began with each move]}.
    """
    generator = torch.Generator(device).manual_seed(seed)
    metrics: dict[str, float] = {}
    episodes: list[dict[str, Any]] = []
    first_moves = torch.zeros(game.actions, dtype=torch.int64)
    for opponent in opponents:
        points: list[float] = []
        by_seat: dict[str, float] = {}
        for seat, count in ((0, games - games // 2), (1, games // 2)):
            if not count:
                continue
            players = [player, opponent] if seat == 0 else [opponent, player]
            played = play_games(game, players, game.init(count, device, generator), generator)
            won = (played.won * (1 - 2 * seat)).tolist()
            scored = [0.5 + 0.5 * ((w > 0) - (w < 0)) for w in won]
            by_seat[f"eval/{opponent.name}/win_rate_{SEATS[seat]}"] = float(np.mean(scored))
            points += scored
            for each, length in zip(won, played.length.tolist(), strict=True):
                record = {"return": float(each), "length": length, "opponent": opponent.name, "seat": SEATS[seat]}
                episodes.append(record)
            if seat == 0:
                first_moves += torch.bincount(played.moves[:, 0].cpu(), minlength=game.actions)
        metrics |= {f"eval/{opponent.name}/win_rate": float(np.mean(points)), **by_seat}
    returns = np.array([episode["return"] for episode in episodes])
    metrics["eval/mean_reward"] = float(returns.mean())
    metrics["eval/std_reward"] = float(returns.std())
    metrics["eval/mean_ep_length"] = float(np.mean([episode["length"] for episode in episodes]))
    return Evaluation(metrics, {"seed": seed, "episodes": episodes, "first_moves": first_moves.tolist()})
