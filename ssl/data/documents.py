"""Streams of documents in pieces, with errors in place of unreadable ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlgym.common.suggest import did_you_mean
from rlgym.errors import RequestError


@dataclass(frozen=True)
class Bad:
    """A malformed text or row: position and error."""

    where: str
    why: str


Item = tuple[str, bool] | Bad
"""(text, ends): the next piece of the current document, and whether it is the last. Bad: the current document, if any,
is discarded."""


@dataclass(frozen=True)
class Row:
    """A row of a table: position, and values by column."""

    where: str
    values: dict[str, object]


class Unreadable(Exception):
    """Raised when the rest of a file cannot be read."""


@dataclass
class Meter:
    """Reading progress of a source."""

    done: int = 0


@dataclass
class Table:
    """A lazily read table; every row has the `wanted` columns, or the first without them is Bad."""

    rows: Iterator[Row | Bad]
    meter: Meter
    size: int
    """The meter's final value; 0: unknown."""
    unit: str
    """Unit of a Bad: line, row."""
    files: list[Path] = field(default_factory=list)
    name: str = ""
    """Source of the rows, for the data card."""
    revision: str = ""
    recognisable: bool = True
    """Whether settings, files and revision identify the content; otherwise it is read again each time."""

    def documents(self, column: str) -> Source:
        """The documents in one column of a table."""
        items = (row if isinstance(row, Bad) else text_of(row.values[column], row.where) for row in self.rows)
        about = (self.meter, self.size, self.unit, self.files, self.name, self.revision, self.recognisable)
        return Source(items, *about)


@dataclass
class Source:
    """A lazily read source of documents, and what identifies its content."""

    items: Iterator[Item]
    meter: Meter
    size: int
    """The meter's final value; 0: unknown."""
    unit: str
    """Unit of a Bad: file, line, row."""
    files: list[Path] = field(default_factory=list)
    """The files it reads; unchanged files give the same documents."""
    name: str = ""
    """Source of the text, for the data card."""
    revision: str = ""
    recognisable: bool = True
    """Whether settings, files and revision identify the content; otherwise it is read again each time."""
    tolerant: bool = False
    """Whether bad documents are only counted, regardless of `data.bad`."""


def text_of(value: object, where: str) -> Item:
    """A row's text as one complete document."""
    if not isinstance(value, str):
        return Bad(where, f"{_KINDS.get(type(value), type(value).__name__)} where text should be")
    why = no_text(value)
    return Bad(where, why) if why else (value, True)


def no_text(value: str) -> str:
    """The reason why a string is invalid text, or empty: JSON escapes can encode lone surrogates, which neither UTF-8
    nor tokenizers accept."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"holds half of a surrogate pair (character {error.start}), which is no text"
    return ""


def cannot_be_used(bad: int, unit: str, first: str) -> RequestError:
    """The error of `data.bad=stop`: number of bad documents, the first one, and what would do."""
    return RequestError(
        f"data: {counted(bad, unit)} cannot be used, the first is {first}; data.bad=skip leaves such out and counts "
        "them"
    )


def left_out(bad: int, first: str, unit: str = "row") -> str:
    """Suffix about documents skipped by `data.bad=skip`; empty if none."""
    return f"; left out: {counted(bad, unit)}, the first {first}" if bad else ""


def counted(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def check_columns(wanted: Iterable[str], columns: Iterable[str], place: str, remedy: str = "") -> None:
    """RequestError unless a table has all `wanted` columns, without duplicate names."""
    known = list(columns)
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"{place}: {known.count(twice)} columns are called {twice!r}; give each a name of its own")
    for column in wanted:
        if column not in known:
            raise unknown_column(column, known, place, remedy=remedy)


def unknown_column(
    column: str, columns: Iterable[str], place: str, key: str = "data.column", remedy: str = ""
) -> RequestError:
    known = list(columns)
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    near = did_you_mean(column, known)
    return RequestError(f"{key}={column}: no such column in {place}, which has: {shown or 'none'}{near}{remedy}")


def files_size(files: Iterable[Path]) -> int:
    """Size on disk in bytes."""
    return sum(path.stat().st_size for path in files)


def stamps(files: Iterable[Path]) -> list[list[Any]]:
    """(path, bytes, modification time in ns) of each file."""
    found = []
    for path in files:
        status = path.stat()
        found.append([str(path), status.st_size, status.st_mtime_ns])
    return found
