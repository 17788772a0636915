"""Numbers that are known about the games, and positions in which rules go wrong."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgym.games import make_game
from rlgym.games.board import BoardGame, count, lines, masks
from rlgym.games.game import DONE, RETURN, TURN, Game
from rlgym.games.poker import PokerGame, tables
from tests.games.walks import at, moved, reached, walk


def perft(game: Game, depth: int) -> list[int]:
    """How many sequences of 1, 2, ... moves there are."""
    position, found = game.starts()[0], []
    for _ in range(depth):
        found.append(int(game.legal(position).sum()))
        position = moved(game, position)
    return found


def test_perft_of_connect_four() -> None:
    assert perft(make_game("connect_four"), 7) == [7, 49, 343, 2401, 16807, 117649, 823536]


def test_perft_of_othello() -> None:
    assert perft(make_game("othello"), 7) == [4, 12, 56, 244, 1396, 8200, 55092]


@pytest.mark.slow
def test_perft_of_othello_with_passes() -> None:
    """The shortest games are nine moves long."""
    assert perft(make_game("othello"), 9)[7:] == [390216, 3005288]


def test_perft_of_tic_tac_toe() -> None:
    assert perft(make_game("tic_tac_toe"), 9) == [9, 72, 504, 3024, 15120, 54720, 148176, 200448, 127872]


def test_positions_and_games_of_tic_tac_toe() -> None:
    """5478 positions, 958 of them terminal; 131184 games won by who begins, 77904 by the other, 46080 drawn."""
    game = make_game("tic_tac_toe")
    plies = list(reached(game))
    assert sum(map(len, plies)) == 5478 and sum(int(ply[:, DONE].sum()) for ply in plies) == 958
    position, ends = game.starts()[0], {1: 0, -1: 0, 0: 0}
    while len(position):
        over = position[position[:, DONE] > 0, RETURN]
        ends = {won: number + int((over == won).sum()) for won, number in ends.items()}
        position = moved(game, position)
    assert ends == {1: 131184, -1: 77904, 0: 46080}


def test_positions_of_connect_four_by_ply() -> None:
    plies = reached(make_game("connect_four"))
    assert [len(next(plies)) for _ in range(8)] == [1, 7, 49, 238, 1120, 4263, 16422, 54859]


def ended(position: Tensor) -> int | None:
    """What player 0 has won in one position `[1, words]`; None while it goes on."""
    return int(position[0, RETURN]) if position[0, DONE] else None


def in_a_row(board: NDArray[np.bool_], length: int) -> bool:
    """Whether there are `length` in a row, column or diagonal: cell by cell."""
    rows, columns = board.shape
    for row, column in product(range(rows), range(columns)):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            line = [(row + down * step, column + right * step) for step in range(length)]
            if all(0 <= r < rows and 0 <= c < columns and board[r, c] for r, c in line):
                return True
    return False


@pytest.mark.parametrize("name, length", [("tic_tac_toe", 3), ("connect_four", 4)])
def test_a_line_wins_and_nothing_else(name: str, length: int) -> None:
    """The last stone is set on boards of all densities: rows and columns do not run on into the next ones."""
    game = make_game(name)
    assert isinstance(game, BoardGame)
    rng, cells = np.random.default_rng(0), game.rows * game.columns
    own = rng.random((400, cells)) < rng.random((400, 1))
    own = np.where(rng.random((400, 1)) < 0.5, own, own & (rng.random((400, cells)) < 0.6))
    stones = (torch.from_numpy(own) * masks(game.bits, torch.device("cpu"))).sum(1)
    steps = {"tic_tac_toe": (1, 3, 4, 5), "connect_four": (1, 6, 7, 8)}[name]
    expected = [in_a_row(board.reshape(game.rows, game.columns), length) for board in own]
    assert lines(stones, steps, length).tolist() == expected and 0.2 < np.mean(expected) < 0.8
    for position, _ in walk(game, 20):
        for row in position:
            board, mover = game.cells(row), 1 - int(row[TURN])
            wins = in_a_row(board == mover, length)
            assert not in_a_row(board == 1 - mover, length)
            assert bool(row[DONE]) is (wins or bool((board >= 0).all()))
            assert row[RETURN] == wins * (1 - 2 * mover)


def test_a_full_board_without_a_line_is_a_draw() -> None:
    board = at(make_game("tic_tac_toe"), "a1", "b2", "c3", "b1", "b3", "a3", "c1", "c2", "a2")
    assert ended(board) == 0
    game, moves = make_game("connect_four"), "121212212121343434434343565656656565777777"
    assert len(moves) == game.max_moves
    assert ended(at(game, *moves)) == 0 and ended(at(game, *moves[:-1])) is None


def test_a_last_stone_that_makes_a_line_wins() -> None:
    """The full board is no draw then."""
    board = at(make_game("tic_tac_toe"), "a1", "b1", "c1", "a2", "b2", "c2", "b3", "a3", "c3")
    assert ended(board) == 1


def test_columns_of_connect_four_fill_up() -> None:
    game = make_game("connect_four")
    assert game.legal(at(game, *"444444"))[0].tolist() == [True, True, True, False, True, True, True]


def test_runs_of_bits() -> None:
    for length in range(2, 8):
        for run in range(1, 9):
            stones = torch.tensor([sum(1 << 5 + 7 * i for i in range(run))])
            assert lines(stones, (7,), length).item() is (run >= length)
            assert not lines(stones, (1, 6, 8), length).item()


def test_counting_bits() -> None:
    words = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(0))
    words = torch.cat([words, torch.tensor([0, -1, 1, -(2**63), 2**63 - 1])])
    assert count(words).tolist() == [bin(word & 2**64 - 1).count("1") for word in words.tolist()]


# ---- poker


def infostates(game: Game) -> int:
    """How many observations there are in which a player decides."""
    position = torch.cat(list(reached(game)))
    return len(game.observe(position[position[:, DONE] == 0]).unique(dim=0))


def uniform_value(game: Game) -> float:
    """What player 0 wins on average when both play any move."""
    position, weight = game.starts()
    value = 0.0
    while len(position):
        over = position[:, DONE] > 0
        value += float((weight * position[:, RETURN])[over].sum())
        row, action = game.legal(position).nonzero(as_tuple=True)
        weight = (weight / game.legal(position).sum(1))[row]
        position = game.play(position[row], action)
    return value


def test_kuhn_poker_in_numbers() -> None:
    game = make_game("kuhn_poker")
    assert infostates(game) == 12
    assert [len(ply) for ply in reached(game)] == [6, 12, 24, 12]
    assert uniform_value(game) == pytest.approx(1 / 8)
    assert max(int(ply[:, RETURN].abs().max()) for ply in reached(game)) == game.max_return == 2


def test_leduc_poker_in_numbers() -> None:
    """288 information states when suits do not matter; OpenSpiel has 936 with suits."""
    game = make_game("leduc_poker")
    assert infostates(game) == 288
    assert max(int(ply[:, RETURN].abs().max()) for ply in reached(game)) == game.max_return == 13
    assert uniform_value(game) == pytest.approx(-0.078125, abs=1e-9)


@pytest.mark.parametrize("name", ["kuhn_poker", "leduc_poker"])
def test_a_view_hides_the_other_card_and_what_is_not_yet_open(name: str) -> None:
    """Deals that a player cannot tell apart look the same all along, the others never."""
    game = make_game(name)
    assert isinstance(game, PokerGame)
    seen, deals = tables(game, torch.device("cpu")).seen, game.deals()
    for node, moves in enumerate(game.nodes):
        is_open = len(game.betting(moves).rounds) > 1
        for player in (0, 1):
            known = [(deal.cards[player], deal.common if is_open else None) for deal in deals]
            same = (seen[:, None, node, player] == seen[None, :, node, player]).all(2)
            assert same.tolist() == [[one == other for other in known] for one in known]
    assert len({view.numpy().tobytes() for view in seen[0].flatten(0, 1)}) == 2 * len(game.nodes)


def test_who_wins_a_pot_of_leduc() -> None:
    game = make_game("leduc_poker")
    assert isinstance(game, PokerGame)
    results = {}
    for index, deal in enumerate(game.deals()):
        position = game.starts()[0][index : index + 1]
        for move in ("raise", "raise", "call", "raise", "call"):
            action = game.parse_move(move)
            assert action is not None and game.legal(position)[0, action]
            position = game.play(position, torch.tensor([action]))
        results[(*deal.cards, deal.common)] = ended(position)
    jack, queen, king = range(3)
    assert results[(jack, king, jack)] == 9  # a pair beats a king; antes 1, raises of 2 and 2, then of 4
    assert results[(jack, king, king)] == results[(jack, king, queen)] == -9
    assert results[(king, queen, jack)] == 9 and results[(queen, queen, king)] == 0


def test_turns_of_leduc() -> None:
    """Each round begins with player 0, so that who calls at its end may move twice in a row."""
    game = make_game("leduc_poker")
    assert at(game, "call", "raise", "call")[0, TURN] == 0
    assert at(game, "raise", "call")[0, TURN] == 0
    names = [game.move_name(move) for move in game.legal(at(game, "call"))[0].nonzero().squeeze(1).tolist()]
    assert names == ["call", "raise"]  # nothing to fold to
    names = [game.move_name(move) for move in game.legal(at(game, "raise", "raise"))[0].nonzero().squeeze(1).tolist()]
    assert names == ["fold", "call"]  # two raises a round
