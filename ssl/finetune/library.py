"""Built-in examples: functions of the Python standard library with targets."""

from __future__ import annotations

import ast
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlgym.errors import RequestError
from rlgym.ssl.data.documents import Meter, Row, Unreadable
from rlgym.ssl.data.reading import pieces
from rlgym.ssl.data.stdlib_source import functions, library_files
from rlgym.ssl.finetune.examples import Table, same_text

NAME = "functions of the Python standard library"
CLASSES, LEAST_FILES, LEAST, MOST = 16, 5, 60, 200
"""Limits for packages: maximum number, and minimum files and functions of each."""
EXAMPLES = 3_000
"""Limits for the other data sets."""
LENGTH = (120, 2_000)
"""Length limits of a function, in characters."""
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.comprehension, ast.BoolOp, ast.Assert)


def packages() -> Table:
    """Predict a function's package: the largest ones, at most 200 functions each. Columns text, package, file."""
    found: dict[str, list[Row]] = {}
    for path, where, text in _functions():
        package = path.split("/")[0]
        if "/" in path:
            found.setdefault(package, []).append(Row(where, {"text": text, "package": package, "file": path}))
    large = {
        name: rows
        for name, rows in found.items()
        if len(rows) >= LEAST and len({row.values["file"] for row in rows}) >= LEAST_FILES
    }
    chosen = sorted(large, key=lambda name: (-len(large[name]), name))[:CLASSES]
    if len(chosen) < 2:
        raise RequestError("data=default: no Python source in the standard library's folder; give data of your own")
    rows = [row for name in sorted(chosen) for row in _evenly(large[name], MOST)]
    return Table(["text", "package", "file"], rows, 0, "", NAME)


def complexities() -> Table:
    """Predict a function's cyclomatic complexity: 1 + its branches (McCabe 1976). Columns text, branches, file."""
    rows = []
    for path, where, text in _functions():
        tree = _parsed(text)
        if tree is not None:
            branches = 1 + sum(isinstance(node, BRANCHES) for node in ast.walk(tree))
            rows.append(Row(where, {"text": text, "branches": branches, "file": path}))
    return Table(["text", "branches", "file"], _evenly(rows, EXAMPLES), 0, "", NAME)


def docstrings() -> Table:
    """Describe a function: its source without docstring, and the docstring's first sentence. Columns prompt,
    completion, file."""
    rows = []
    for path, where, text in _functions():
        tree = _parsed(text)
        function = tree.body[0] if tree is not None and tree.body else None
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or len(function.body) < 2:
            continue
        said = (ast.get_docstring(function) or "").split("\n\n")[0]
        sentence = " ".join(said.split(". ")[0].split()).rstrip(".")
        if not 10 <= len(sentence) <= 120:
            continue
        lines = text.split("\n")
        first = function.body[0]
        assert first.end_lineno is not None
        rest = lines[: first.lineno - 1] + lines[first.end_lineno :]
        prompt = textwrap.dedent("\n".join(rest)).strip() + "\n# "
        rows.append(Row(where, {"prompt": prompt, "completion": sentence + ".", "file": path}))
    return Table(["prompt", "completion", "file"], _evenly(rows, EXAMPLES), 0, "", NAME)


def _functions() -> Iterator[tuple[str, str, str]]:
    """(file, position, source) of every function of usual length, without duplicates."""
    folder = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    for path in library_files(folder):
        name = path.relative_to(folder).as_posix()
        if name.startswith(("test/", "tests/")):  # half of all, and of a different kind
            continue
        try:
            source = "".join(pieces(path, Meter()))
        except Unreadable:
            continue
        for number, text in enumerate(functions(source), 1):
            key = same_text(text)
            if LENGTH[0] <= len(text) <= LENGTH[1] and key not in seen:
                seen.add(key)
                yield name, f"{name}, function {number}", text


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():  # invalid escapes in old code
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a method's source need not parse by itself
        return None


def _evenly(rows: list[Row], count: int) -> list[Row]:
    """At most `count` rows, evenly spread over the files."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[place] for place in places.tolist()]
