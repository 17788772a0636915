"""Default preferences: bodies of standard library functions against corrupted ones. The prompt is a function's header,
the chosen answer its body, the rejected one that body corrupted in one of five ways, or another function's. Everything
is determined by the seed.
"""

from __future__ import annotations

import keyword
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlgym.errors import RequestError
from rlgym.ssl.data.documents import Meter, Unreadable
from rlgym.ssl.data.reading import pieces
from rlgym.ssl.data.stdlib_source import functions, library_files
from rlgym.ssl.finetune import examples
from rlgym.ssl.finetune.prompts import header

NAME = "functions of the Python standard library, true against corrupted"
MOST, PER_FILE = 4_000, 16
"""Maximum number of functions in total and per file, for variety."""
LENGTH = (60, 360)
"""Length limits of a body, in characters."""
LARGEST = 60_000
"""Maximum size of a file in bytes; larger ones take too long to parse."""
LEAST_LINES = 3
"""Minimum lines of a body, so that their order can be corrupted."""
IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
OPERATORS = ("==", "!=", "<=", ">=", "+=", "**", "//", "+", "-", "*", "/", "%", "=", "<", ">", ".", ":", ",")
OPERATOR = re.compile("|".join(re.escape(operator) for operator in OPERATORS))


@dataclass(frozen=True)
class Function:
    file: str
    where: str
    header: str
    body: str


@dataclass(frozen=True)
class Corrupted:
    function: Function
    body: str
    kind: str
    held: bool


def corrupted_functions(held_out: float, seed: int) -> list[Corrupted]:
    """A corrupted body for each function, and which are held out: those of a share `held_out` of the files. Corruptions
    use only functions of the same side.
    """
    found = list(_functions())
    if len({function.file for function in found}) < 2:
        raise RequestError("data=default: no Python source in the standard library's folder; give pairs of your own")
    held = examples.split([function.file for function in found], held_out, seed).tolist()
    sides = {side: [f for f, out in zip(found, held, strict=True) if out == side] for side in (False, True)}
    return [
        Corrupted(function, *corrupt(function, sides[out], seed), out)
        for function, out in zip(found, held, strict=True)
    ]


def _functions() -> Iterator[Function]:
    """Functions with bodies of usual length from the whole library; headers and bodies are unique."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path for path in library_files(folder) if path.stat().st_size <= LARGEST]
    random.Random(0).shuffle(files)
    seen: set[str] = set()
    count = 0
    for path in files:
        try:
            source = "".join(pieces(path, Meter()))
        except Unreadable:
            continue
        name, of_file = path.relative_to(folder).as_posix(), 0
        for number, text in enumerate(functions(source), 1):
            if count == MOST:
                return
            if of_file == PER_FILE:
                break
            if not LENGTH[0] <= len(text) <= 2 * LENGTH[1] or (start := header(text)) is None:
                continue
            body = text.removeprefix(start)
            keys = {examples.same_text(start), examples.same_text(body)}
            if not LENGTH[0] <= len(body) <= LENGTH[1] or len(lines_of(body)) < LEAST_LINES or keys & seen:
                continue
            seen |= keys
            of_file, count = of_file + 1, count + 1
            yield Function(name, f"{name}, function {number}", start, body)


# ---- what is done to a body


def corrupt(function: Function, others: Sequence[Function], seed: int) -> tuple[str, str]:
    """(corrupted body, kind of corruption), determined by `seed` and the function's position."""
    draw = random.Random(f"{seed} {function.where}")
    left = dict(SHARES)
    while left:
        kind = draw.choices(list(left), list(left.values()))[0]
        del left[kind]
        spoilt = KINDS[kind](function.body, draw, others)
        if examples.same_text(spoilt) != examples.same_text(function.body):
            return spoilt, kind
    raise AssertionError("another function's body differs")  # collected bodies are distinct


def lines_of(body: str) -> list[str]:
    return [line for line in body.split("\n") if line.strip()]


def _with_lines(body: str, lines: Sequence[str]) -> str:
    """Source range of a body: after the header's colon to the last line."""
    return "\n" + "\n".join(lines) + "\n" * body.endswith("\n")


def shuffle_lines(body: str, draw: random.Random, others: Sequence[Function]) -> str:
    lines = lines_of(body)
    return _with_lines(body, draw.sample(lines, len(lines)))


def drop_lines(body: str, draw: random.Random, others: Sequence[Function]) -> str:
    """Delete a third of the lines, at least one."""
    lines = lines_of(body)
    kept = sorted(draw.sample(range(len(lines)), len(lines) - max(1, len(lines) // 3)))
    return _with_lines(body, [lines[i] for i in kept])


def swap_identifiers(body: str, draw: random.Random, others: Sequence[Function]) -> str:
    """Permute all names."""
    names = [name for name in IDENTIFIER.findall(body) if not keyword.iskeyword(name)]
    left = iter(draw.sample(names, len(names)))
    return IDENTIFIER.sub(lambda found: found[0] if keyword.iskeyword(found[0]) else next(left), body)


def swap_operators(body: str, draw: random.Random, others: Sequence[Function]) -> str:
    """Replace half of the operators (and colons, commas and dots) by others."""
    return OPERATOR.sub(lambda found: draw.choice(OPERATORS) if draw.random() < 0.5 else found[0], body)


def random_words(body: str, draw: random.Random, others: Sequence[Function]) -> str:
    """Replace a third of the words by words of other functions."""

    def word(found: re.Match[str]) -> str:
        if draw.random() >= 1 / 3:
            return found[0]
        words: list[str] = IDENTIFIER.findall(draw.choice(others).body)
        return draw.choice(words or ["pass"])

    return IDENTIFIER.sub(word, body)


def other_body(body: str, draw: random.Random, others: Sequence[Function]) -> str:
    """Another function's body, of similar length (the best of a few tries)."""
    tries = [draw.choice(others).body for _ in range(8)]
    return min((other for other in tries if other != body), key=lambda other: abs(len(other) - len(body)), default=body)


SHARES = {
    "swapped_operators": 4,
    "swapped_identifiers": 4,
    "random_words": 4,
    "shuffled_lines": 4,
    "dropped_lines": 3,
    "other_body": 1,
}
"""Relative frequency of each kind, out of 20. Another function's body is rare: it is valid by itself and only
mismatches the header, which takes a larger model to detect."""
KINDS: dict[str, Callable[[str, random.Random, Sequence[Function]], str]] = {
    "shuffled_lines": shuffle_lines,
    "dropped_lines": drop_lines,
    "swapped_identifiers": swap_identifiers,
    "swapped_operators": swap_operators,
    "random_words": random_words,
    "other_body": other_body,
}
