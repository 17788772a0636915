"""What each reward says of completions, and what becomes of a function that does not keep to its word."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlgym.errors import RequestError
from rlgym.ssl.finetune.config import (
    ArithmeticReward,
    LengthReward,
    ModelReward,
    OwnReward,
    PythonSyntaxReward,
    RegexReward,
    SumReward,
)
from rlgym.ssl.finetune.rewards import RewardFault, answer, build_reward, does_something, score


def said(config: Any, prompts: list[str], completions: list[str], ended: list[bool] | None = None) -> list[float]:
    reward = build_reward(config)
    found: list[float] = score(reward, config.name, prompts, completions, ended or [True] * len(prompts)).tolist()
    return found


HEADER = "def f(x):"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("\n    return x\n", 1.0),
        (" return x", 1.0),
        ("\n    'only said'\n", 0.0),
        ("\n    pass\n", 0.0),
        ("\n    ...\n", 0.0),
        ("\n    'said'\n    ...\n    pass\n    3\n", 0.0),
        ("\n    'said'\n    return x\n", 1.0),
        ("\n    return (x\n", 0.0),
        ("\nreturn x\n", 0.0),
        ("", 0.0),
        ("\n    pass\n\nprint(1)\n", 0.0),  # what follows is not its body
        ("\n    if x:\n        pass\n", 1.0),
        ("\n    return '\0'\n", 0.0),
        ("\n    return '\\d'\n", 1.0),  # an invalid escape is a warning, not an error
        ("\n    return " + "(" * 400 + "\n", 0.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_python_that_parses_and_does_something(completion: str, expected: float) -> None:
    assert said(PythonSyntaxReward(), [HEADER], [completion]) == [expected]
    assert said(PythonSyntaxReward(), [HEADER], [completion], [False]) == [0.0], "not ended"


def test_python_is_never_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    text = f"\n    return x\n\nopen({str(made)!r}, 'w').close()\n"
    assert said(PythonSyntaxReward(), [HEADER], [text]) == [1.0]
    assert not made.exists()


def test_without_a_function_the_whole_text_counts() -> None:
    assert does_something("x = 1\n") and not does_something("'x'\n") and not does_something("")


@pytest.mark.parametrize("exercise", ["12+34", "7", "9-20", "2+3*4", "10*3-4*5+6", "-5+2", "99+99", "1-2-3"])
def test_arithmetic_by_python(exercise: str) -> None:
    assert answer(f"so: {exercise}=") == str(eval(exercise))


def test_arithmetic_is_exact() -> None:
    prompts = ["12+34="] * 5
    assert said(ArithmeticReward(), prompts, ["46", "46 ", "47", "46.0", "046"]) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert said(ArithmeticReward(), ["12+34="], ["46"], [False]) == [0.0]
    with pytest.raises(RewardFault, match=r"reward=arithmetic raised ValueError: the prompt 'hello' does not end"):
        said(ArithmeticReward(), ["hello"], ["46"])


def test_regex_and_length() -> None:
    texts = ["a1b", "12", ""]
    assert said(RegexReward(pattern=r"\d"), [""] * 3, texts) == [1.0, 1.0, 0.0]
    assert said(RegexReward(pattern=r"\d+", whole=True), [""] * 3, texts) == [0.0, 1.0, 0.0]
    assert said(LengthReward(target=4), [""] * 4, ["", "ab", "abcd", "a" * 20]) == [0.0, 0.5, 1.0, 0.0]


def test_a_weighted_sum() -> None:
    terms: list[dict[str, object]] = [
        {"name": "regex", "pattern": "a", "weight": 2},
        {"name": "length", "target": 2, "weight": -0.5},
        {"name": "regex", "pattern": "b"},
    ]
    assert said(SumReward(terms=terms), [""] * 3, ["a", "bb", "ab"]) == [1.75, 0.5, 2.5]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RegexReward(), "reward.pattern is empty"),
        (RegexReward(pattern="("), r"reward.pattern=\(: no regular expression"),
        (SumReward(), "reward.terms is empty"),
        (SumReward(terms=[{"weight": 1}]), r"reward.terms\[0\]: must be a name"),
        (SumReward(terms=[{"name": "length", "weight": "much"}]), r"reward.terms\[0\].weight=much"),
        (SumReward(terms=[{"name": "lenght"}]), "reward=lenght not found - did you mean reward=length"),
        (SumReward(terms=[{"name": "length", "targte": 3}]), r"unknown key reward.terms\[0\].targte"),
        (SumReward(terms=[{"name": "sum"}]), "must be a reward of its own"),
        (ModelReward(), "reward.run is empty"),
        (OwnReward(name="os:sep"), "reward=os:sep: not a function"),
        (OwnReward(name="os:nothing"), "no nothing in os"),
        (OwnReward(name="no_such_module:f"), "cannot import no_such_module"),
    ],
)
def test_requests_that_cannot_be_met(config: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build_reward(config)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], OwnReward]:
    """A person's function as module:function."""

    def make(function: Any) -> OwnReward:
        module = types.ModuleType("my_rewards")
        module.__dict__["mine"] = function
        monkeypatch.setitem(sys.modules, "my_rewards", module)
        return OwnReward(name="my_rewards:mine")

    return make


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor])
def test_a_function_of_ones_own(own: Callable[[Any], OwnReward], kind: Any) -> None:
    config = own(
        lambda prompts, completions: kind([float(len(p + c)) for p, c in zip(prompts, completions, strict=True)])
    )
    assert said(config, ["ab", "c"], ["d", ""]) == [3.0, 1.0]


def fails(prompts: list[str], completions: list[str]) -> list[float]:
    raise ZeroDivisionError("division\nby zero")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, "reward=my_rewards:mine raised ZeroDivisionError: division by zero"),
        (lambda p, c: 1.0, "gave a single number for 2 completions"),
        (lambda p, c: [1.0], r"gave numbers of shape \[1\] for 2 completions"),
        (lambda p, c: [[1.0], [2.0]], r"gave numbers of shape \[2, 1\]"),
        (lambda p, c: [1.0, float("nan")], "gave nan for 'cd'"),
        (lambda p, c: [float("inf"), 1.0], "gave inf for 'ab'"),
        (lambda p, c: ["good", "bad"], "raised"),
        (lambda p, c: None, "raised"),
        (lambda p: [1.0, 2.0], "raised TypeError"),
    ],
)
def test_a_function_that_does_not_keep_to_its_word(
    own: Callable[[Any], OwnReward], function: Any, message: str
) -> None:
    with pytest.raises(RewardFault, match=message) as raised:
        said(own(function), ["a", "c"], ["b", "d"])
    assert os.linesep not in str(raised.value) and len(str(raised.value)) < 300
