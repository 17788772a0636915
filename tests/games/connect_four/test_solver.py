"""The solver against plain negamax, against itself a move later, and against what mirrors may not change."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from rlgym.games.connect_four.rules import COLUMNS, ROWS, ConnectFour
from rlgym.games.connect_four.solver import Solver
from rlgym.games.game import random_moves, rewards

GAME = ConnectFour()
LINES = [
    [(column + k * right, row + k * up) for k in range(4)]
    for right, up in ((1, 0), (0, 1), (1, 1), (1, -1))
    for column in range(COLUMNS)
    for row in range(ROWS)
    if 0 <= column + 3 * right < COLUMNS and 0 <= row + 3 * up < ROWS
]
Board = tuple[tuple[int, ...], ...]


@pytest.fixture(scope="module")
def solver() -> Solver:
    return Solver()


def positions(stones: int, count: int, seed: int) -> Tensor:
    """Games that go on after so many random moves, `[count, words]`."""
    generator = torch.Generator().manual_seed(seed)
    position = GAME.init(40 * count)
    for _ in range(stones):
        position = GAME.step(position, random_moves(GAME.legal(position), generator))
    return position[GAME.legal(position).any(1)][:count]


def board_of(row: Tensor) -> Board:
    """Columns of stones from the bottom: 0 and 1 for the players."""
    cells = GAME.cells(row)
    return tuple(tuple(int(cell) for cell in cells[::-1, column] if cell >= 0) for column in range(COLUMNS))


@cache
def negamax(board: Board, turn: int) -> int:
    """The score for who is to move in a game that nobody has won, by the rules alone: no pruning, no bitboards."""
    stones = sum(len(column) for column in board)
    if stones == ROWS * COLUMNS:
        return 0
    best = -100
    for column in range(COLUMNS):
        if len(board[column]) == ROWS:
            continue
        after = (*board[:column], (*board[column], turn), *board[column + 1 :])
        if won(after, column, turn):
            return ROWS * COLUMNS // 2 + 1 - (stones // 2 + 1)
        best = max(best, -negamax(after, 1 - turn))
    return best


def won(board: Board, column: int, turn: int) -> bool:
    """Whether the stone on top of the column completes a line."""
    last = (column, len(board[column]) - 1)
    return any(last in line and all(len(board[c]) > r and board[c][r] == turn for c, r in line) for line in LINES)


def test_scores_values_and_kept_moves_equal_plain_negamax(solver: Solver) -> None:
    found = set()
    for stones, count in ((31, 4), (32, 8), (34, 20), (37, 20), (40, 10), (41, 5)):
        for row in positions(stones, count, seed=stones):
            board, turn = board_of(row), int(row[0])
            score = negamax(board, turn)
            value = (score > 0) - (score < 0)
            assert (solver.score(row), solver.value(row)) == (score, value)
            legal = GAME.legal(row[None])[0].tolist()
            for move in range(COLUMNS):
                if not legal[move]:
                    assert not solver.keeps(row, move)
                    continue
                after = (*board[:move], (*board[move], turn), *board[move + 1 :])
                child = 1 if won(after, move, turn) else -negamax(after, 1 - turn)
                assert solver.keeps(row, move) == ((child > 0) - (child < 0) == value)
            found.add(value)
    assert found == {-1, 0, 1}


def test_a_score_is_the_best_of_the_moves_and_its_sign_is_the_value(solver: Solver) -> None:
    for stones in (14, 17, 20):
        for row in positions(stones, 8, seed=stones):
            moves = GAME.legal(row[None])[0].nonzero().squeeze(1)
            after = GAME.play(row.expand(len(moves), -1), moves)
            score = solver.score(row)
            assert score == max(-solver.score(each) for each in after)
            assert solver.value(row) == (score > 0) - (score < 0)


def test_a_mirrored_position_is_worth_the_same_and_keeps_the_mirrored_moves(solver: Solver) -> None:
    generator = torch.Generator().manual_seed(5)
    row, mirrored = GAME.init(1), GAME.init(1)
    for _ in range(14):
        move = random_moves(GAME.legal(row), generator)
        row, mirrored = GAME.step(row, move), GAME.step(mirrored, COLUMNS - 1 - move)
    fresh = Solver()  # with nothing remembered of the other
    value = solver.value(row[0])
    assert fresh.value(mirrored[0]) == value and fresh.score(mirrored[0]) == solver.score(row[0])
    assert fresh.keeping(mirrored[0], value) == solver.keeping(row[0], value)[::-1]


def test_what_is_remembered_changes_no_answer(solver: Solver) -> None:
    rows = positions(16, 12, seed=1)
    first = [solver.score(row) for row in rows]
    values = [solver.value(row) for row in rows]
    assert [solver.score(row) for row in rows] == first
    fresh = [Solver().score(row) for row in rows]
    assert fresh == first and values == [(score > 0) - (score < 0) for score in first]


def test_a_finished_game_is_worth_what_it_ended_with(solver: Solver) -> None:
    """Also by how much: what the move before it was worth."""
    position = GAME.init(1)
    for column in (3, 0, 3, 0, 3, 0):
        position = GAME.step(position, torch.tensor([column]))
    assert solver.score(position[0]) == 18  # the fourth stone of 21
    over = GAME.step(position, torch.tensor([3]))
    assert rewards(over, over[:, 0]).item() == -1
    assert (solver.score(over[0]), solver.value(over[0])) == (-18, -1)
    assert not any(solver.keeping(over[0], -1))
