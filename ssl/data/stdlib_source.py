"""The corpus that is on every machine: the Python standard library's own source and reference text."""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rlgym.errors import RequestError
from rlgym.ssl.config import StdlibData
from rlgym.ssl.data.documents import Bad, Item, Meter, Source, Unreadable, files_size
from rlgym.ssl.data.reading import pieces

OTHERS = {"site-packages", "dist-packages", "__pycache__"}
"""Folders of what is installed beside the library, or made from it."""
CUT = 4
"""Of documents=mixed, one file in so many is cut. A file has some thirty functions: even so most documents are one."""


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
        cut = documents == "functions" or (documents == "mixed" and is_cut(text))
        found = list(plain_functions(text)) if cut else []
        if found or documents == "functions":
            for function in found:
                yield function, True
        else:
            yield text, True


def is_cut(text: str) -> bool:
    """Whether documents=mixed cuts this file into its functions, which follows from its content alone."""
    return zlib.crc32(text.encode()) % CUT == 0


def functions(source: str) -> Iterator[str]:
    """The source of each function at the top level or in a class there, decorators included, moved to the left margin.

    Nothing when the source does not parse.
    """
    numbered = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # the lines as the parser counts them
    for node in _parsed(source):
        first = min(part.lineno for part in (node, *node.decorator_list))
        margin = " " * node.col_offset
        taken = numbered[first - 1 : node.end_lineno]
        yield "\n".join(line.removeprefix(margin) for line in taken) + "\n"


def plain_functions(source: str) -> Iterator[str]:
    """The same functions as `ast` writes them: without comments and docstring, a statement a line."""
    for node in _parsed(source):
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        if node.body:
            with suppress(RecursionError):  # an expression that is nested too deep to be written
                yield ast.unparse(node) + "\n"


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
