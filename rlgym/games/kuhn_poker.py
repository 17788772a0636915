"""Kuhn poker (H. W. Kuhn, A simplified two-person poker, 1950): three cards, one each, and one bet.

Both players ante one chip, then bet or pass; passing after a bet folds, betting after a bet calls.
"""

from __future__ import annotations

from itertools import permutations

from rlgym.games.poker import Betting, Deal, PokerGame

PASS, BET = 0, 1


class KuhnPoker(PokerGame):
    name = "kuhn_poker"
    summary = "poker with three cards and one bet"
    actions = 2
    moves = ("pass", "bet")
    ranks = "JQK"
    round_moves = 3
    max_moves = 3
    max_return = 2
    shape = (2 + 3 + 3 * 2,)

    def deals(self) -> list[Deal]:
        return [Deal((first, second), None, 1 / 6) for first, second in permutations(range(3), 2)]

    def betting(self, moves: tuple[int, ...]) -> Betting:
        paid = [1, 1]
        for number, move in enumerate(moves):
            paid[number % 2] += move == BET
        over = len(moves) > 1 and moves != (PASS, BET)
        return Betting(len(moves) % 2, (paid[0], paid[1]), () if over else (PASS, BET), (moves,))

    def strength(self, card: int, common: int | None) -> int:
        return card
