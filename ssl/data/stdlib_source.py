"""The default corpus: source and reference text of the Python standard library."""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path

from rlgym.errors import RequestError
from rlgym.ssl.config import StdlibData
from rlgym.ssl.data.documents import Bad, Item, Meter, Source, Unreadable, files_size
from rlgym.ssl.data.reading import pieces

OTHERS = {"site-packages", "dist-packages", "__pycache__"}
"""Folders of installed packages and generated files, which are skipped."""
SHORT = 600
"""Length limits, in characters, of functions that documents=mixed extracts: they fit into a block of 256 tokens."""


def open_stdlib(config: StdlibData) -> Source:
    folder = Path(sysconfig.get_path("stdlib"))
    files = library_files(folder)
    if not files:
        raise RequestError(f"data=stdlib: no Python source in {folder}; data=text data.path=... reads text of your own")
    meter = Meter()
    items = _items(folder, files, config.documents, meter)
    # The library's tests contain deliberately broken files: counted, never an error.
    return Source(items, meter, files_size(files), "file", files, "the Python standard library", tolerant=True)


def library_files(folder: Path) -> list[Path]:
    """All .py files below a folder, sorted by relative path."""
    found: list[tuple[str, Path]] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in OTHERS]
        paths = (Path(place, name) for name in names if name.endswith(".py"))
        found += ((path.relative_to(folder).as_posix(), path) for path in paths if path.is_file())
    return [path for _, path in sorted(found)]


def _items(folder: Path, files: list[Path], documents: str, meter: Meter) -> Iterator[Item]:
    for path in files:
        try:
            text = "".join(pieces(path, meter))
        except Unreadable as error:
            yield Bad(path.relative_to(folder).as_posix(), str(error))
            continue
        if documents == "mixed" and not is_test(path.relative_to(folder)):
            text, found = parted(text)
        else:
            found = list(plain_functions(text)) if documents == "functions" else []
        for function in found:
            yield function, True
        if documents != "functions" and (text.strip() or not found):
            yield text, True


def is_test(path: Path) -> bool:
    """Whether a file is one of the library's tests, which are half of its text, with much bracketed data."""
    return any(part in ("test", "tests", "idle_test") or part.startswith("test_") for part in path.parts)


def functions(source: str) -> Iterator[str]:
    """The dedented source of each function at the top level or in a top-level class, with decorators; none if the
    source does not parse.
    """
    numbered = _lines(source)
    for node in _parsed(source):
        margin = " " * node.col_offset
        yield "\n".join(line.removeprefix(margin) for line in numbered[_place(node)]) + "\n"


def plain_functions(source: str) -> Iterator[str]:
    """The same functions as unparsed by `ast`: without comments and docstring, one statement per line."""
    yield from filter(None, map(_plain, _parsed(source)))


def parted(source: str) -> tuple[str, list[str]]:
    """(rest of a file, its short plain functions); each text is in one of the two only."""
    rest, found = _lines(source), []
    for node in reversed(list(_parsed(source))):
        text = _plain(node)
        if text and len(text) <= SHORT:
            found.append(text)
            del rest[_place(node)]
    return "\n".join(rest), found[::-1]


def _plain(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The unparsed function; empty if only a docstring would be dropped, or an expression is nested too deeply."""
    bare = copy(node)
    bare.body = node.body[ast.get_docstring(node, clean=False) is not None :]
    with suppress(RecursionError):
        return ast.unparse(bare) + "\n" if bare.body else ""
    return ""


def _lines(source: str) -> list[str]:
    """Lines, as counted by the parser."""
    return source.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _place(node: ast.FunctionDef | ast.AsyncFunctionDef) -> slice:
    """Line range of a function, including decorators."""
    return slice(min(part.lineno for part in (node, *node.decorator_list)) - 1, node.end_lineno)


def _parsed(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    try:
        with warnings.catch_warnings():  # invalid escapes in old code
            warnings.simplefilter("ignore")
            module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the parser's exceptions
        return
    yield from _functions(module)


def _functions(parent: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node)
