"""Playing in the terminal: every word that a person may type, from either seat, and two programs against each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rlgym.games import make_game
from rlgym.games.players import OnePlyPlayer, RandomPlayer
from rlgym.games.playing import between
from rlgym.games.terminal import Thought, play_in_terminal


class First:
    """Plays the first legal move, and thinks it was the only one."""

    name = "first"

    def __init__(self, name: str) -> None:
        self.game = make_game(name)

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        return self.game.legal(position).int().argmax(1)

    def think(self, position: Tensor) -> Thought:
        one = torch.eye(self.game.actions)[0]
        return Thought(one, 8 * one, one, 0.25, [0, 1])


def talk(words: str, seat: int, game: str = "tic_tac_toe") -> tuple[float | None, str]:
    """What a person in `seat` who types `words` wins, and all that was said."""
    answers: Iterator[str] = iter(words.split(";"))
    said: list[str] = []

    def ask(question: str) -> str:
        said.append(question)
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    won = play_in_terminal(make_game(game), First(game), seat, torch.Generator().manual_seed(0), ask, said.append)
    return won, "\n".join(said)


def test_a_person_wins_from_the_first_seat() -> None:
    won, said = talk("b2;c3;a1", 0)  # the program takes a3, b3
    assert won == 1 and "you win" in said
    assert "first plays a3" in said


def test_a_person_loses_from_the_second_seat() -> None:
    won, said = talk("a1;b1", 1)  # the program takes a3, b3, c3
    assert won == -1 and "you lose" in said
    assert said.startswith("first plays a3")


def test_wrong_words_say_what_would_do() -> None:
    won, said = talk("x9;a3;b2;a3;quit", 0)
    assert won is None
    assert "x9 is no legal move here; type a move, ? for what the program thinks" in said
    assert said.count("is no legal move here") == 2, "a3 is taken by then"


def test_moves_can_be_taken_back() -> None:
    _, said = talk("u;b2;u;quit", 0)
    assert "nothing to take back" in said
    assert "1 . . ." in said.split("first plays a3")[1].split("O")[1], "the empty board again"
    assert said.count("a3 b3 c3 a2 b2 c2 a1 b1 c1") == 3


def test_the_program_tells_its_thoughts() -> None:
    _, said = talk("?", 0)
    assert "a3   1.00       8    1.00" in said
    assert "value +0.25 for who is to move; expected: a3 b3" in said


def test_hidden_cards_stay_hidden() -> None:
    _, said = talk("quit", 0, "kuhn_poker")
    assert "?" in said.split("your move")[0]


def test_two_programs(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    game = make_game("connect_four")
    found = between(game, OnePlyPlayer(game), RandomPlayer(game), [0, 1, 0, 1], torch.Generator().manual_seed(1), None)
    assert [episode["seat"] for episode in found["episodes"]] == ["second", "first", "second", "first"]
    said = capsys.readouterr().out
    assert "game 1: one_ply moves second, random first" in said
    points = sum(0.5 + 0.5 * ((e["return"] > 0) - (e["return"] < 0)) for e in found["episodes"])
    assert f"one_ply has {points:g} of 4 points against random" in said
