"""Preferences from the standard library: what is done to a body, that draws repeat, and that sides are apart."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rlgym.ssl.finetune import corruptions
from rlgym.ssl.finetune.corruptions import KINDS, Function, corrupt, corrupted_functions, lines_of

BODY = '\n    """Say."""\n    total = first + second\n    if total == 3:\n        return total\n    return name.value\n'
OTHERS = [
    Function("b.py", "b.py, function 1", "def g():", "\n    alpha()\n    beta()\n    return gamma\n"),
    Function("b.py", "b.py, function 2", "def h():", "\n    delta = 1\n    return delta\n"),
]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "MOST", 60)
    monkeypatch.setattr(corruptions, "PER_FILE", 6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_spoils_and_follows_from_its_draw(kind: str) -> None:
    first, again = (KINDS[kind](BODY, random.Random(3), OTHERS) for _ in range(2))
    assert first == again != BODY
    assert first.startswith("\n") and first.endswith("\n")


def test_each_kind_does_what_its_name_says() -> None:
    draw = random.Random(5)
    lines = lines_of(BODY)
    assert Counter(lines_of(KINDS["shuffled_lines"](BODY, draw, OTHERS))) == Counter(lines)
    dropped = lines_of(KINDS["dropped_lines"](BODY, draw, OTHERS))
    assert len(dropped) == len(lines) - len(lines) // 3 and [line for line in lines if line in dropped] == dropped
    swapped = KINDS["swapped_identifiers"](BODY, draw, OTHERS)
    assert (
        Counter(swapped.split()).total() == Counter(BODY.split()).total() and "if " in swapped and "return" in swapped
    )
    words = corruptions.IDENTIFIER
    assert Counter(words.findall(swapped)) == Counter(words.findall(BODY)) and words.sub("", swapped) == words.sub(
        "", BODY
    )
    operators = KINDS["swapped_operators"](BODY, draw, OTHERS)
    assert words.findall(operators) == words.findall(BODY)
    foreign = set(words.findall(KINDS["random_words"](BODY, draw, OTHERS))) - set(words.findall(BODY))
    assert foreign <= {word for other in OTHERS for word in words.findall(other.body)}
    assert KINDS["other_body"](BODY, draw, OTHERS) in {other.body for other in OTHERS}


def test_what_cannot_be_spoilt_one_way_is_spoilt_another() -> None:
    """Lines that are all alike have no order."""
    same = Function("a.py", "a.py, function 1", "def f():", "\n    a\n    a\n    a\n")
    for seed in range(20):
        body, kind = corrupt(same, OTHERS, seed)
        assert body != same.body and kind in KINDS and kind not in ("shuffled_lines", "swapped_identifiers")


@pytest.mark.usefixtures("few")
def test_pairs_repeat_by_seed_and_sides_share_no_file() -> None:
    first, again, other = (corrupted_functions(0.25, seed) for seed in (1, 1, 2))
    assert first == again and len(first) == 60
    assert [each.function for each in first] == [each.function for each in other], "the functions are the same ones"
    assert [each.body for each in first] != [each.body for each in other]
    sides = {side: {each.function.file for each in first if each.held == side} for side in (False, True)}
    assert sides[True] and sides[False] and not sides[True] & sides[False]
    assert 5 <= sum(each.held for each in first) <= 25
    assert len({each.function.header for each in first}) == 60
    for each in first:
        assert each.function.header.endswith(":") and each.body != each.function.body
        if each.kind == "other_body":
            donors = [one for one in first if one.function.body == each.body]
            assert donors and all(one.held == each.held for one in donors), "taken from the same side"
    assert len({each.kind for each in first}) >= 5 and corruptions.SHARES.keys() == KINDS.keys()
    assert all(each.held for each in corrupted_functions(1.0, 1))
