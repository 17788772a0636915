"""Othello's bitboards against the rules said cell by cell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlgym.games import make_game
from rlgym.games.board import masks
from rlgym.games.game import DONE, OWN, RETURN, TURN
from rlgym.games.othello import Othello, enclosed, reach
from tests.games.walks import walk

Board = dict[tuple[int, int], int]
WAYS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]


def turned_over(board: Board, side: int, player: int, cell: tuple[int, int]) -> set[tuple[int, int]]:
    """The stones that `player` encloses from the empty `cell`."""
    found: set[tuple[int, int]] = set()
    for down, right in WAYS:
        line, (row, column) = [], (cell[0] + down, cell[1] + right)
        while board.get((row, column)) == 1 - player:
            line.append((row, column))
            row, column = row + down, column + right
        if board.get((row, column)) == player:
            found |= set(line)
    return found


def places(board: Board, side: int, player: int) -> list[int]:
    cells = [divmod(cell, side) for cell in range(side * side)]
    return [i for i, cell in enumerate(cells) if cell not in board and turned_over(board, side, player, cell)]


@pytest.mark.parametrize("name, side, games", [("othello", 8, 6), ("othello_6x6", 6, 12)])
def test_random_games_cell_by_cell(name: str, side: int, games: int) -> None:
    game = make_game(name)
    middle = side // 2
    start = {(middle - 1, middle): 0, (middle, middle - 1): 0, (middle - 1, middle - 1): 1, (middle, middle): 1}
    boards, turn, passes = [start.copy() for _ in range(games)], [0] * games, 0
    for position, action in walk(game, games):
        for row, board in enumerate(boards):
            mine, theirs = places(board, side, turn[row]), places(board, side, 1 - turn[row])
            over = not mine and not theirs
            assert bool(position[row, DONE]) is over
            shown = {(r, c): int(cell) for (r, c), cell in cells(game, position[row]) if cell >= 0}
            assert shown == board
            if over:
                balance = sum(1 - 2 * player for player in board.values())
                assert position[row, RETURN] == (balance > 0) - (balance < 0)
                continue
            assert position[row, TURN] == turn[row]
            assert game.legal(position[row : row + 1])[0].nonzero().squeeze(1).tolist() == (mine or [side * side])
            move = int(action[row])
            if move < side * side:
                cell = divmod(move, side)
                board |= dict.fromkeys([cell, *turned_over(board, side, turn[row], cell)], turn[row])
            else:
                passes += 1
            turn[row] = 1 - turn[row]
    assert passes > 0  # the walk met some


def cells(game: object, position: Tensor) -> list[tuple[tuple[int, ...], int]]:
    assert isinstance(game, Othello)
    board = game.cells(position)
    return [((row, column), board[row, column]) for row in range(game.rows) for column in range(game.columns)]


def word(*names: str) -> Tensor:
    """Cells by name as bits, `[1]`."""
    game = make_game("othello")
    assert isinstance(game, Othello)
    moves = [game.parse_move(name) for name in names]
    bits = masks(game.bits, torch.device("cpu"))
    return torch.stack([bits[move] for move in moves if move is not None]).sum()[None]


LINES = [
    ("a1", ("b2", "c3", "d4", "e5", "f6", "g7"), "h8"),
    ("a8", ("b7", "c6", "d5", "e4", "f3", "g2"), "h1"),
    ("a1", ("b1", "c1", "d1", "e1", "f1", "g1"), "h1"),
    ("a8", ("b8", "c8", "d8", "e8", "f8", "g8"), "h8"),
    ("h1", ("h2", "h3", "h4", "h5", "h6", "h7"), "h8"),
    ("a1", ("a2", "a3", "a4", "a5", "a6", "a7"), "a8"),
]


@pytest.mark.parametrize("one, between, other", LINES)
def test_longest_lines_from_corner_to_corner(one: str, between: tuple[str, ...], other: str) -> None:
    """h8 is the sign of the word."""
    middle = word(*between)
    for stone, own in ((word(one), word(other)), (word(other), word(one))):
        assert torch.equal(enclosed(stone, own, middle), middle)
        assert torch.equal(reach(own, middle, ~(own | middle)), stone)
        assert not enclosed(stone, own, middle & ~word(between[3])).any()  # a gap


@pytest.mark.parametrize(
    "own, other", [("h1", "a2"), ("h2", "a3"), ("g1", "h1"), ("h8", "a8"), ("a1", "h8"), ("h7", "h8")]
)
def test_lines_do_not_run_on_beyond_an_edge(own: str, other: str) -> None:
    mine, theirs = word(own), word(other)
    assert not reach(mine, theirs, ~(mine | theirs)).any()


def set_up(own: Tensor, other: Tensor) -> Tensor:
    """The position `[1, words]` with player 0 to move."""
    return torch.stack([*torch.zeros(3, 1, dtype=torch.int64), own, other, reach(own, other, ~(own | other))], 1)


def test_a_pass_and_a_wipe_out() -> None:
    """Player 1 can enclose nothing and passes, then loses the last stone: the game is over, and won."""
    game = make_game("othello")
    position = set_up(word("a1", "a3"), word("b1", "b3"))
    for move, then in (("c1", ["pass"]), ("pass", ["c3"])):
        position = game.play(position, torch.tensor([game.parse_move(move)]))
        names = [game.move_name(action) for action in game.legal(position)[0].nonzero().squeeze(1).tolist()]
        assert names[: len(then)] == then and position[0, DONE] == 0
    position = game.play(position, torch.tensor([game.parse_move("c3")]))
    assert position[0, :OWN].tolist() == [1, 1, 1] and not game.legal(position).any()


def test_as_many_stones_each_is_a_draw() -> None:
    game = make_game("othello")
    own, other = word("a1"), word("b1", "e5", "e6", "g8")
    position = game.play(set_up(own, other), torch.tensor([game.parse_move("c1")]))
    assert position[0, :OWN].tolist() == [1, 1, 0]  # a1, b1, c1 against e5, e6, g8
