"""Position files and what is wrong with them, drawn positions, and the error of players that are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.games.connect_four import positions as module
from rlgym.games.connect_four.positions import (
    drawn_positions,
    exact_error,
    exact_errors,
    file_positions,
    read_positions,
)
from rlgym.games.connect_four.rules import ConnectFour
from rlgym.games.connect_four.solver import Solver
from rlgym.games.game import random_moves
from rlgym.games.players import RandomPlayer, winning

GAME = ConnectFour()
WON = "44444422222266667711"
"""Nobody has won, and the first player is to move."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "positions"


def position_of(moves: str) -> Tensor:
    position = GAME.init(1)
    for digit in moves:
        position = GAME.play(position, torch.tensor([int(digit) - 1]))
    return position[0]


def random_game(moves: int, seed: int) -> str:
    """So many digits, after which the game goes on."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        played, position = "", GAME.init(1)
        while len(played) < moves and not position[0, 1]:
            move = random_moves(GAME.legal(position), generator)
            played, position = played + str(int(move) + 1), GAME.play(position, move)
        if not position[0, 1]:
            return played


@pytest.mark.parametrize(
    "text, says",
    (
        ("44 1\n4x 1\n", "line 2: moves=4x must be columns, digits 1 to 7"),
        ("48 0\n", "line 1: moves=48 must be columns"),
        ("44\n", "line 1: must be moves and a score"),
        ("44 1 2\n", "line 1: must be moves and a score"),
        ("44 won\n", "line 1: score=won is no whole number"),
        ("12 0\n\n4444444 1\n", "line 3: move 7 is not legal: column 4 is full"),
        ("12121212 1\n", "line 1: move 8 is not legal: the game is over before it"),
        ("1212121 -18\n", "line 1: the game is over after these moves"),
        ("\n \n", "holds no position"),
    ),
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(RequestError) as error:
        read_positions(path)
    assert str(error.value).startswith(str(path)) and says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.txt: positions cannot be read \(No such file"):
        read_positions(tmp_path / "none.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="bytes: positions cannot be read"):
        read_positions(tmp_path / "bytes")
    with pytest.raises(RequestError, match="positions cannot be read"):
        read_positions(tmp_path)


def test_a_file_is_read_and_solved_once(tmp_path: Path, cache: Path) -> None:
    solver = Solver()
    games = [WON, random_game(20, 1), random_game(25, 2)]
    lines = [f"{moves} {solver.score(position_of(moves))}" for moves in games]
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(lines) + "\n")
    said: list[str] = []
    found = file_positions(path, said.append)
    assert len(found) == len(lines) == 3 and len(said) == 1
    for row, value, keeps in zip(found.position, found.value, found.keeps, strict=True):
        assert solver.value(row) == value and solver.keeping(row, int(value)) == keeps.tolist()
    again = file_positions(path, said.append)
    assert len(said) == 1
    assert torch.equal(again.position, found.position) and torch.equal(again.keeps, found.keeps)
    assert [part.suffix for part in cache.iterdir()] == [".json"]


def test_a_score_that_is_not_true_is_named(tmp_path: Path, cache: Path) -> None:
    value = Solver().value(position_of(WON))
    path = tmp_path / "mine.txt"
    path.write_text(f"{WON} {value}\n{WON} {-value if value else 3}\n")
    with pytest.raises(RequestError, match=r"mine\.txt, line 2: score=.*, and the position is"):
        file_positions(path)
    assert not list(cache.iterdir())  # nothing half-solved is kept


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STAGES", {"middle": range(20, 23), "end": range(28, 31)})
    monkeypatch.setattr(module, "AT_ONCE", 256)


def test_drawn_positions_are_what_they_should_be(small: None, cache: Path) -> None:
    said: list[str] = []
    stages = drawn_positions(count=31, seed=4, say=said.append)
    solver = Solver()
    assert list(stages) == ["middle", "end"] and len(said) == 1
    for (stage, part), stones in zip(stages.items(), (range(20, 23), range(28, 31)), strict=True):
        assert len(part) == len(torch.unique(part.position, dim=0)) == 31
        legal = GAME.legal(part.position)
        assert legal.any(1).all() and not winning(GAME, part.position, legal).any()
        counts = [(own | other).bit_count() for own, other in part.position[:, 3:].tolist()]
        assert set(counts) == set(stones), stage
        assert part.keeps.any(1).all() and (legal & ~part.keeps).any(1).all() and not (part.keeps & ~legal).any()
        for row, value, keeps in zip(part.position[::5], part.value[::5], part.keeps[::5], strict=True):
            assert solver.value(row) == value >= 0
            assert [solver.keeps(row, move) for move in range(7)] == keeps.tolist()
    again = drawn_positions(count=31, seed=4, say=said.append)
    assert len(said) == 1 and torch.equal(again["end"].position, stages["end"].position)
    other = drawn_positions(count=31, seed=5, say=said.append)
    assert len(said) == 2 and not torch.equal(other["end"].position, stages["end"].position)


def test_what_is_drawn_depends_on_the_seed_alone_and_what_is_broken_is_drawn_anew(small: None, cache: Path) -> None:
    first = drawn_positions(count=9, seed=1, say=lambda line: None)
    (path,) = cache.iterdir()
    whole = path.read_text()
    for broken in (whole[: len(whole) // 2], "{}[", '{"middle": {}}'):
        path.write_text(broken)
        again = drawn_positions(count=9, seed=1, say=lambda line: None)
        assert all(torch.equal(again[stage].position, part.position) for stage, part in first.items())
        assert path.read_text() == whole


def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLGYM_CACHE", str(tmp_path / "file"))
    with pytest.raises(RequestError, match="solved positions cannot be kept in .*RLGYM_CACHE"):
        drawn_positions(count=1000)


class Keeper:
    """Keeps the value in all positions but the first `errs`."""

    name = "keeper"

    def __init__(self, keeps: Tensor, errs: int) -> None:
        self.keeps, self.errs = keeps, errs

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        wrong = torch.arange(len(position)) < self.errs
        choice = torch.where(wrong[:, None], GAME.legal(position) & ~self.keeps, self.keeps)
        return choice.float().argmax(1)


def test_the_error_is_the_share_of_moves_that_lose_value(small: None) -> None:
    stages = drawn_positions(count=30, seed=0, say=lambda line: None)
    part = stages["middle"]
    assert exact_error(Keeper(part.keeps, 0), part) == 0
    assert exact_error(Keeper(part.keeps, 6), part) == pytest.approx(0.2)
    legal = GAME.legal(part.position)
    chance = 1 - (part.keeps.sum(1) / legal.sum(1)).mean().item()
    errors = [exact_error(RandomPlayer(GAME), part, seed) for seed in range(40)]
    assert sum(errors) / 40 == pytest.approx(chance, abs=0.05)
    assert set(exact_errors(RandomPlayer(GAME), stages)) == {"middle", "end"}
