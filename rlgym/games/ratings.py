"""Elo ratings with intervals, from games between participants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlgym.envs.spaces import Array

ANCHOR = "random"
"""The participant with rating 0, if it takes part."""
ELO = 400 / math.log(10)
"""Elo points per unit of natural log-odds: 400 points correspond to odds of 10 to 1."""
PRIOR = 1000 / ELO
"""Deviation of the prior around 0. It bounds the rating of a player that won every game, and weighs less than one game
otherwise."""
Z95 = 1.959964
NEAR = 1e-7
"""Tolerance of Newton's method in log-odds, far below one point."""


class Ladder:
    """Results of all pairs, and the ratings that follow from them.

    The model is Elo's (Bradley and Terry 1952, doi:10.2307/2334029): a scores 1 / (1 + 10^((R_b - R_a) / 400)) points a
    game against b, a draw being half a point. The ratings maximise the posterior under a normal prior.
    """

    def __init__(self) -> None:
        self.games: dict[tuple[str, str], list[int]] = {}
        """(a, b) -> games won by a, drawn, won by b; each pair is in one order only."""

    def add(self, a: str, b: str, wins: int, draws: int, losses: int) -> None:
        """Add games between a and b, counted from a's side."""
        assert a != b and min(wins, draws, losses) >= 0
        if (b, a) in self.games:
            a, b, wins, losses = b, a, losses, wins
        met = self.games.setdefault((a, b), [0, 0, 0])
        for outcome, count in enumerate((wins, draws, losses)):
            met[outcome] += count

    @property
    def names(self) -> list[str]:
        """All participants, in order of appearance."""
        return list(dict.fromkeys(name for pair in self.games for name in pair))

    def ratings(self) -> dict[str, tuple[float, float, float]]:
        """Name -> Elo and the ends of its 95 % interval, from the curvature of the posterior at its peak.

        Intervals are for the difference to `random`, which has none itself. Without `random`, ratings are centred at 0.
        """
        names = self.names
        rated = [name for name in names if name != ANCHOR]
        place = {name: i for i, name in enumerate(rated)}
        # The anchor's rating is fixed: its column is left out.
        pairs = np.zeros((len(self.games), len(rated)))
        points, counts = np.zeros(len(self.games)), np.zeros(len(self.games))
        for row, ((a, b), (wins, draws, losses)) in enumerate(self.games.items()):
            points[row], counts[row] = wins + draws / 2, wins + draws + losses
            for name, sign in ((a, 1.0), (b, -1.0)):
                if name in place:
                    pairs[row, place[name]] = sign
        strength, covariance = _peak(pairs, points, counts)
        deviation = np.sqrt(np.diag(covariance))
        found = {ANCHOR: (0.0, 0.0, 0.0)} if ANCHOR in names else {}
        for name, i in place.items():
            elo, half = ELO * strength[i], ELO * Z95 * deviation[i]
            found[name] = (float(elo), float(elo - half), float(elo + half))
        return {name: found[name] for name in names}

    def state_dict(self) -> dict[str, Any]:
        return {"games": [[a, b, *outcomes] for (a, b), outcomes in self.games.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.games = {(a, b): [int(n) for n in outcomes] for a, b, *outcomes in state["games"]}


def _peak(pairs: Array, points: Array, counts: Array) -> tuple[Array, Array]:
    """Newton's method on the log-posterior, which is concave: strengths `[n]` and their covariance `[n, n]`, from
    `pairs [met, n]`, in each row 1 and -1 for who met, and the `points [met]` of the former in `counts [met]` games."""

    def density(strength: Array) -> float:
        ahead = pairs @ strength
        wins = points * np.logaddexp(0, -ahead) + (counts - points) * np.logaddexp(0, ahead)
        return float(-wins.sum() - (strength**2).sum() / (2 * PRIOR**2))

    strength = np.zeros(pairs.shape[1])
    while True:
        expected = 1 / (1 + np.exp(-(pairs @ strength)))
        slope = pairs.T @ (points - counts * expected) - strength / PRIOR**2
        curvature = (pairs.T * (counts * expected * (1 - expected))) @ pairs + np.eye(len(strength)) / PRIOR**2
        step = np.linalg.solve(curvature, slope)
        if np.abs(step).max(initial=0) < NEAR:
            return strength, np.linalg.inv(curvature)
        while density(strength + step) < density(strength) and np.abs(step).max() > NEAR:
            step /= 2
        strength = strength + step
