"""A game of one's own, outside of the package: the one that docs/games.md writes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from rlgym.errors import RequestError
from rlgym.games import GAMES, add, make_game
from rlgym.games.tic_tac_toe import TicTacToe
from tests.command.conftest import Answer

PAGE = Path(__file__).parents[2] / "docs/games.md"
GAME = "env=avoid:avoid_three"
SMALL = ["agent.games=8", "agent.simulations=4", "agent.fast_simulations=4", "agent.learning_starts=50"]


@pytest.fixture
def avoid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "avoid.py").write_text(next(block for block in code if "(BoardGame)" in block))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("avoid", None)
    GAMES.pop("avoid_three", None)
    gym.registry.pop("avoid_three", None)
    make_game.cache_clear()


def test_a_game_of_ones_own(avoid: None, command: Callable[..., Answer], tmp_path: Path) -> None:
    words = ["steps=400", "evaluate.episodes=2", "display=quiet"]
    answer = command("agent=alphazero", GAME, *SMALL, *words, "run.dir=searched")
    assert answer.code == 0, answer.err
    answer = command("agent=ppo", GAME, *words, "run.dir=pooled", "env.num_envs=8", "agent.n_steps=32")
    assert answer.code == 0, answer.err
    answer = command("evaluate", "pooled", "episodes=4", "opponents=searched")
    assert answer.code == 2 and "trust=true" in answer.err and len(answer.err.splitlines()) == 1
    answer = command("evaluate", "pooled", "episodes=4", "opponents=searched", "trust=true")
    assert answer.code == 0, answer.err
    (file,) = (tmp_path / "pooled/evaluations").glob("*_4_episodes_*.json")
    assert {game["opponent"] for game in json.loads(file.read_text())["episodes"]} == {"searched"}
    answer = command("play", "searched", "against=pooled", "trust=true")
    assert answer.code == 0 and "a b c d" in answer.out, answer


@pytest.mark.parametrize("agent", ["alphazero", "ppo"])
def test_what_is_no_game(agent: str, avoid: None, command: Callable[..., Answer]) -> None:
    for id, said in {
        "avoid:avoid_tree": "avoid:avoid_tree",
        "avoided:avoid_three": "No module named 'avoided'",
    }.items():
        answer = command(f"agent={agent}", f"env={id}")
        assert answer.code == 2 and said in answer.err and len(answer.err.splitlines()) == 1


def test_a_name_that_is_taken() -> None:
    assert add(TicTacToe) is TicTacToe and type(make_game("tic_tac_toe")) is TicTacToe, "again is no other"

    class Other(TicTacToe):
        pass

    before = dict(GAMES)
    with pytest.raises(RequestError, match="has the name tic_tac_toe already"):
        add(Other)
    assert before == GAMES
