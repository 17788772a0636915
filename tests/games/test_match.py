"""Matches and the players that need no training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlgym.games import make_game
from rlgym.games.game import DONE, RETURN, Game, loudest, random_moves
from rlgym.games.match import play_games, versus
from rlgym.games.players import OnePlyPlayer, RandomPlayer, winning
from tests.games.walks import at, going


class Column:
    """Drops its stones into one column while it can."""

    name = "column"

    def __init__(self, game: Game, column: int) -> None:
        self.game, self.column = game, column

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        legal = self.game.legal(position)
        return torch.where(legal[:, self.column], self.column, legal.int().argmax(1))


def test_a_win_counts_for_the_winner_from_either_seat() -> None:
    game = make_game("connect_four")
    first, second = versus(game, OnePlyPlayer(game), Column(game, 0), games=50, seed=0)
    other_first, other_second = versus(game, Column(game, 0), OnePlyPlayer(game), games=50, seed=0)
    for one, other in ((first, other_second), (second, other_first)):
        assert one.games == one.wins + one.draws + one.losses == 50
        assert one.rate + other.rate == pytest.approx(1, abs=0.15)
    # Alone in its column, it wins with its fourth stone unless it is stopped.
    race = play_games(game, [Column(game, 0), Column(game, 6)], game.init(3), torch.Generator())
    assert race.won.tolist() == [1, 1, 1] and race.length.tolist() == [7, 7, 7]
    assert race.moves[0].tolist() == [0, 6, 0, 6, 0, 6, 0]
    late = play_games(game, [Column(game, 0), Column(game, 6)], at(game, "4"), torch.Generator())
    assert late.won.tolist() == [-1]  # player 1 now is a stone ahead in its column


def test_scores_by_seat() -> None:
    game = make_game("connect_four")
    as_first, as_second = versus(game, Column(game, 0), Column(game, 6), games=4, seed=0)
    assert (as_first.wins, as_first.rate, as_first.mean) == (4, 1.0, 1.0)
    assert (as_second.losses, as_second.rate, as_second.mean) == (4, 0.0, -1.0)


def test_a_game_that_is_cut_short_is_won_by_nobody() -> None:
    game = make_game("connect_four")
    played = play_games(game, [RandomPlayer(game)] * 2, game.init(20), torch.Generator().manual_seed(0), moves=6)
    assert not played.won.any() and (played.length == 6).all() and played.moves.shape == (20, 6)
    none = play_games(game, [RandomPlayer(game)] * 2, game.init(20), torch.Generator(), moves=0)
    assert none.moves.shape == (20, 0) and not none.length.any()


def test_games_of_different_lengths() -> None:
    game = make_game("tic_tac_toe")
    played = play_games(game, [RandomPlayer(game)] * 2, game.init(200), torch.Generator().manual_seed(0))
    assert set(played.length.tolist()) == {5, 6, 7, 8, 9}
    for moves, length, won in zip(played.moves, played.length, played.won, strict=True):
        assert (moves[:length] >= 0).all() and (moves[length:] == -1).all()
        position = at(game, *[game.move_name(int(move)) for move in moves[:length]])
        assert position[0, DONE] == 1 and position[0, RETURN] == won


def test_seats_that_do_not_alternate() -> None:
    """In Leduc a player may move twice in a row; each is asked only for its own turns."""
    game = make_game("leduc_poker")
    generator = torch.Generator().manual_seed(0)
    played = play_games(game, [RandomPlayer(game)] * 2, game.init(300, generator=generator), generator)
    assert played.won.sum() != 0 and played.won.abs().max() > 1 and played.length.max() > 4


def test_one_ply_takes_a_win_and_no_other_move() -> None:
    game = make_game("tic_tac_toe")
    position = torch.cat([at(game, "a1", "b1", "a2", "b2"), at(game, "a1", "b1", "a2", "b2", "c3")])
    assert [game.move_name(int(row.nonzero())) for row in winning(game, position, game.legal(position))] == ["a3", "b3"]
    chosen = OnePlyPlayer(game).choose(position, torch.Generator().manual_seed(0))
    assert [game.move_name(int(move)) for move in chosen] == ["a3", "b3"]
    with pytest.raises(AssertionError):
        OnePlyPlayer(make_game("kuhn_poker"))


def test_random_moves_are_legal_and_equally_likely() -> None:
    game = make_game("connect_four")
    legal = game.legal(at(game, *"444444")).repeat(70_000, 1)
    counts = random_moves(legal, torch.Generator().manual_seed(0)).bincount(minlength=7)
    assert counts[3] == 0 and ((counts[legal[0]] - 70_000 / 6).abs() < 5 * (70_000 / 6) ** 0.5).all()
    # A uniform number may be 0, about once in 17 million.
    assert loudest(torch.tensor([[False, False, True]]), torch.zeros(1, 3)).tolist() == [2]
    assert game.legal(going(game, 5)).any(1).all()
