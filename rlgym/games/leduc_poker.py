"""Leduc poker (Southey et al. 2005, Bayes' bluff, arXiv:1207.1411): six cards, two of each rank, and two rounds.

Both players ante one chip and get a card; before the second round a common card is revealed. Bets are 2 chips, then 4,
with at most two raises per round. A pair with the common card wins, else the higher card. Suits do not matter, so a
deal consists of ranks.
"""

from __future__ import annotations

from itertools import product

from rlgym.games.poker import Betting, Deal, PokerGame

FOLD, CALL, RAISE = 0, 1, 2
BETS = (2, 4)
RAISES = 2


class LeducPoker(PokerGame):
    name = "leduc_poker"
    summary = "poker with six cards and two rounds"
    actions = 3
    moves = ("fold", "call", "raise")
    """Calling without a bet is a check."""
    ranks = "JQK"
    rounds = 2
    round_moves = 4
    max_moves = 8
    max_return = 1 + RAISES * sum(BETS)
    shape = (2 + 3 + 3 + 2 * 4 * 3,)

    def deals(self) -> list[Deal]:
        deals = []
        for first, second, common in product(range(3), repeat=3):
            ways = 2 * (2 - (second == first)) * (2 - (common == first) - (common == second))
            if ways:
                deals.append(Deal((first, second), common, ways / (6 * 5 * 4)))
        return deals

    def betting(self, moves: tuple[int, ...]) -> Betting:
        turn, paid, over = 0, [1, 1], False
        rounds: list[tuple[int, ...]] = [()]
        for move in moves:
            rounds[-1] = (*rounds[-1], move)
            if move == FOLD:
                over = True
                break
            paid[turn] = max(paid) + (BETS[len(rounds) - 1] if move == RAISE else 0)
            turn = 1 - turn
            if move == CALL and len(rounds[-1]) > 1:  # both have moved and paid the same
                over = len(rounds) == self.rounds
                turn, rounds = 0, rounds if over else [*rounds, ()]
        legal: tuple[int, ...] = ()
        if not over:
            legal = (FOLD,) * (paid[0] != paid[1]) + (CALL,) + (RAISE,) * (rounds[-1].count(RAISE) < RAISES)
        return Betting(turn, (paid[0], paid[1]), legal, tuple(rounds))

    def strength(self, card: int, common: int | None) -> int:
        return 3 if card == common else card
