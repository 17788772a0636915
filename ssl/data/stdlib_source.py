"""The corpus that is on every machine: the Python standard library's own source and reference text."""

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
"""Folders of what is installed beside the library, or made from it."""
SHORT = 600
"""Characters of the functions that documents=mixed takes out: what a block of 256 tokens sees to the end."""


def open_stdlib(config: StdlibData) -> Source:
    folder = Path(sysconfig.get_path("stdlib"))
    files = library_files(folder)
    if not files:
        raise RequestError(f"data=stdlib: no Python source in {folder}; data=text data.path=... reads text of your own")
    meter = Meter()
    items = _items(folder, files, config.documents, meter)
    # The library's tests hold files that are broken on purpose: counted, never an error.
    return Source(items, meter, files_size(files), "file", files, "the Python standard library", tolerant=True)


def library_files(folder: Path) -> list[Path]:
    """Every .py file below, sorted by its path within the folder."""
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
    """Whether a file is of the library's tests: half of its text, and full of data in brackets."""
    return any(part in ("test", "tests", "idle_test") or part.startswith("test_") for part in path.parts)


def functions(source: str) -> Iterator[str]:
    """The source of each function at the top level or in a class there, decorators included, moved to the left margin.

    Nothing when the source does not parse.
    """
    numbered = _lines(source)
    for node in _parsed(source):
        margin = " " * node.col_offset
        yield "\n".join(line.removeprefix(margin) for line in numbered[_place(node)]) + "\n"


def plain_functions(source: str) -> Iterator[str]:
    """The same functions as `ast` writes them: without comments and docstring, a statement a line."""
    yield from filter(None, map(_plain, _parsed(source)))


def parted(source: str) -> tuple[str, list[str]]:
    """(what is left of a file, the short ones of its plain functions): a text is in one of them, never in both."""
    rest, found = _lines(source), []
    for node in reversed(list(_parsed(source))):
        text = _plain(node)
        if text and len(text) <= SHORT:
            found.append(text)
            del rest[_place(node)]
    return "\n".join(rest), found[::-1]


def _plain(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Empty where only a docstring is left out, or an expression is nested too deep to be written."""
    bare = copy(node)
    bare.body = node.body[ast.get_docstring(node, clean=False) is not None :]
    with suppress(RecursionError):
        return ast.unparse(bare) + "\n" if bare.body else ""
    return ""


def _lines(source: str) -> list[str]:
    """As the parser counts them."""
    return source.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _place(node: ast.FunctionDef | ast.AsyncFunctionDef) -> slice:
    """Of its lines, decorators included."""
    return slice(min(part.lineno for part in (node, *node.decorator_list)) - 1, node.end_lineno)


def _parsed(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    try:
        with warnings.catch_warnings():  # invalid escapes in old code
            warnings.simplefilter("ignore")
            module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the parser's ways of giving up
        return
    yield from _functions(module)


def _functions(parent: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node)
