"""Tic-tac-toe's table against plain negamax, and trials whose outcome is known."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.games import make_game
from rlgym.games.match import play_games
from rlgym.games.minimax import ExactPlayer, trial
from rlgym.games.players import OnePlyPlayer, RandomPlayer
from rlgym.games.tree import levels

GAME = make_game("tic_tac_toe")
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


@pytest.fixture(scope="module")
def exact() -> ExactPlayer:
    return ExactPlayer(GAME)


@cache
def negamax(own: frozenset[int], other: frozenset[int]) -> int:
    if any(other.issuperset(line) for line in LINES):
        return -1
    free = set(range(9)) - own - other
    return max((-negamax(other, own | {cell}) for cell in free), default=0)


def test_every_position_is_there_once_and_worth_what_negamax_says(exact: ExactPlayer) -> None:
    assert len(exact) == 5478
    every = torch.cat([level.position for level in levels(GAME)])
    assert len(torch.unique(every, dim=0)) == len(every) == 5478
    assert int(every[:, 1].sum()) == 958
    assert exact.value(GAME.init(1)).item() == 0
    worth, keeps = exact.value(every).tolist(), exact.keeps(every)
    for row, value, keep in zip(every, worth, keeps.tolist(), strict=True):
        own, other = (frozenset(x.flatten().nonzero().squeeze(1).tolist()) for x in GAME.observe(row[None])[0])
        assert value == negamax(own, other)
        for cell in range(9):
            legal = not row[1] and cell not in own | other
            assert keep[cell] == (legal and -negamax(other, own | {cell}) == value)


def test_a_position_of_another_game_is_not_looked_up(exact: ExactPlayer) -> None:
    with pytest.raises(AssertionError):
        exact.value(torch.full((1, GAME.words), 77))


def test_the_exact_player_loses_to_nobody_and_beats_the_random_one(exact: ExactPlayer) -> None:
    generator = torch.Generator().manual_seed(0)
    first = play_games(GAME, [exact, RandomPlayer(GAME)], GAME.init(500), generator).won
    second = play_games(GAME, [RandomPlayer(GAME), exact], GAME.init(500), generator).won
    assert first.min() == 0 and second.max() == 0
    assert (first == 1).float().mean() > 0.9 and (second == -1).float().mean() > 0.6


class Table:
    """A player who moves by a function of the position; deterministic."""

    name = "table"

    def __init__(self, exact: ExactPlayer, wrong: Tensor | None = None) -> None:
        self.exact, self.wrong = exact, wrong

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        keeps = self.exact.keeps(position)
        if self.wrong is not None:  # in one position, a legal move that does not keep its value
            here = (position == self.wrong).all(1)
            keeps[here] = GAME.legal(position[here]) & ~keeps[here]
        return keeps.float().argmax(1)


def test_a_trial_finds_no_fault_in_perfect_play_and_the_one_fault_that_there_is(exact: ExactPlayer) -> None:
    generator = torch.Generator().manual_seed(0)
    for every_reply in (False, True):
        assert trial(GAME, exact, exact, generator, every_reply=every_reply).lost == 0
    # Noughts answer a corner anywhere but in the centre: lost.
    corner = GAME.step(GAME.init(1), torch.tensor([0]))[0]
    faulty = Table(exact, corner)
    met = trial(GAME, faulty, exact, generator, opening=1)
    assert met.lost > 0 and met.errors.tolist() == [corner.tolist()]
    assert trial(GAME, faulty, exact, generator, opening=2).lost == 0  # the opening was made for it


def test_a_trial_visits_all_replies(exact: ExactPlayer) -> None:
    """From the empty board, against a player that never errs, by recursion over games."""
    player = Table(exact)
    generator = torch.Generator().manual_seed(0)
    ends = 0
    for seat in (0, 1):
        finished: set[tuple[int, ...]] = set()

        def follow(position: Tensor, seat: int = seat, finished: set[tuple[int, ...]] = finished) -> None:
            if position[0, 1]:
                finished.add(tuple(position[0].tolist()))
                return
            own = int(position[0, 0]) == seat
            moves = [int(player.choose(position, generator))] if own else range(9)
            for move in moves:
                if GAME.legal(position)[0, move]:
                    follow(GAME.play(position, torch.tensor([move])))

        follow(GAME.init(1))
        ends += len(finished)
    met = trial(GAME, player, exact, generator, opening=0, every_reply=True)
    assert (met.ends, met.lost) == (ends, 0)


def test_one_ply_play_loses_games(exact: ExactPlayer) -> None:
    met = trial(GAME, OnePlyPlayer(GAME), exact, torch.Generator().manual_seed(0))
    assert met.lost > 0 and len(met.errors) > 0
    assert not exact.keeps(met.errors).all(1).any()


def test_a_game_too_large_for_this_is_refused() -> None:
    with pytest.raises(RequestError, match="connect_four has more than 200,000 positions"):
        ExactPlayer(make_game("connect_four"))
