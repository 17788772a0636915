"""The rules beside OpenSpiel's, move for move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgym.games import make_game
from rlgym.games.game import DONE, RETURN, TURN, Game
from rlgym.games.poker import DEAL, PokerGame
from tests.games.walks import walk

pyspiel = pytest.importorskip("pyspiel")

NAMES = ("tic_tac_toe", "connect_four", "othello", "kuhn_poker", "leduc_poker")  # 6 x 6: tests/games/test_othello.py
SUITS = {"kuhn_poker": 1, "leduc_poker": 2}
"""Cards of a rank."""


def dealt(game: Game, state: Any, position: Tensor) -> None:
    """Bring OpenSpiel's `state` to where the next card has been dealt, as `position [words]` has it."""
    while state.is_chance_node():
        assert isinstance(game, PokerGame)
        deal = game.deals()[int(position[DEAL])]
        suits = SUITS[game.name]
        ranks = [*deal.cards, deal.common]
        before = [move.action for move in state.full_history() if move.player == pyspiel.PlayerId.CHANCE]
        rank = ranks[len(before)]
        assert rank is not None
        cards = range(suits * rank, suits * (rank + 1))
        state.apply_action(next(card for card in cards if card not in before))


def compare(name: str, games: int) -> None:
    game, reference = make_game(name), pyspiel.load_game(name)
    assert reference.num_distinct_actions() == game.actions
    assert reference.max_utility() == game.max_return
    states = [reference.new_initial_state() for _ in range(games)]
    for position, action in walk(game, games, seed=7):
        legal, moves = game.legal(position).numpy(), action.tolist()
        for row, state in enumerate(states):
            dealt(game, state, position[row])
            assert state.is_terminal() == bool(position[row, DONE])
            if state.is_terminal():
                won = int(position[row, RETURN])
                assert state.returns() == [won, -won]
                continue
            assert state.current_player() == position[row, TURN]
            assert state.legal_actions() == np.flatnonzero(legal[row]).tolist()
            state.apply_action(moves[row])
    assert all(state.is_terminal() for state in states)


@pytest.mark.parametrize("name", NAMES)
def test_twenty_games(name: str) -> None:
    compare(name, 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_games(name: str) -> None:
    compare(name, 1000)


@pytest.mark.parametrize("name, suits", [("kuhn_poker", ""), ("leduc_poker", "(suit_isomorphism=true)")])
def test_what_is_observed_is_the_information_state(name: str, suits: str) -> None:
    """Both players' observations wherever a move is made: equal where OpenSpiel's information states are, and there
    alone."""
    game, reference = make_game(name), pyspiel.load_game(name + suits)
    assert isinstance(game, PokerGame)
    seen_of: dict[str, bytes] = {}
    for start, deal in zip(game.starts()[0], game.deals(), strict=True):
        state = reference.new_initial_state()
        for card in deal.cards:
            state.apply_action(card)
        nodes = [(start[None], state)]
        for position, state in nodes:
            if state.is_chance_node():
                state.apply_action(deal.common)
            for player in () if state.is_terminal() else (0, 1):  # a finished one tells who has won
                seen = game.observe(position, torch.tensor([player])).numpy().tobytes()
                assert seen_of.setdefault(f"{player} {state.information_state_string(player)}", seen) == seen
            for action in state.legal_actions():
                nodes.append((game.play(position, torch.tensor([action])), state.child(action)))
    assert len(set(seen_of.values())) == len(seen_of)


@pytest.mark.parametrize("name", ["kuhn_poker", "leduc_poker"])
def test_deals_are_as_probable(name: str) -> None:
    game, reference = make_game(name), pyspiel.load_game(name)
    assert isinstance(game, PokerGame)
    found: dict[tuple[int, ...], float] = {}
    cards = 2 + (name == "leduc_poker")

    def deal(state: Any, ranks: tuple[int, ...], probability: float) -> None:
        if len(ranks) == cards:
            found[ranks] = found.get(ranks, 0.0) + probability
            return
        while not state.is_chance_node():  # to the end of the first round
            state.apply_action(1)
        for card, chance in state.chance_outcomes():
            deal(state.child(card), (*ranks, card // SUITS[name]), probability * chance)

    deal(reference.new_initial_state(), (), 1.0)
    assert found == pytest.approx({(*each.cards, each.common)[:cards]: each.probability for each in game.deals()})


def test_moves_are_called_as_there() -> None:
    """Cells of Othello count from the top there and here."""
    state = pyspiel.load_game("othello").new_initial_state()
    game = make_game("othello")
    assert [state.action_to_string(move) for move in state.legal_actions()] == [
        game.move_name(move) for move in game.legal(game.init(1))[0].nonzero().squeeze(1).tolist()
    ]
