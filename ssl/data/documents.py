"""A stream of documents in pieces, with an error in the place of what could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlgym.common.suggest import did_you_mean
from rlgym.errors import RequestError


@dataclass(frozen=True)
class Bad:
    """Something that is no text or no row: where it stands and what is wrong with it."""

    where: str
    why: str


Item = tuple[str, bool] | Bad
"""(text, ends): the next piece of the current document, and whether it is its last. Bad: the current document, if one
has begun, is void."""


@dataclass(frozen=True)
class Row:
    """A row of a table: where it stands, and its values by column."""

    where: str
    values: dict[str, object]


class Unreadable(Exception):
    """The rest of a file cannot be read; says why."""


@dataclass
class Meter:
    """How much a source has read so far."""

    done: int = 0


@dataclass
class Table:
    """Rows, read when they are asked for; `wanted` columns are there in all of them, or the first without is Bad."""

    rows: Iterator[Row | Bad]
    meter: Meter
    size: int
    """What the meter will say at the end; 0: unknown."""
    unit: str
    """What a Bad is: line, row."""
    files: list[Path] = field(default_factory=list)
    name: str = ""
    """Where the rows come from, for the data card."""
    revision: str = ""
    recognisable: bool = True
    """Whether knobs, files and revision tell all; without it the source is read anew each time."""

    def documents(self, column: str) -> Source:
        """The texts of one column, each a document."""
        items = (row if isinstance(row, Bad) else text_of(row.values[column], row.where) for row in self.rows)
        about = (self.meter, self.size, self.unit, self.files, self.name, self.revision, self.recognisable)
        return Source(items, *about)


@dataclass
class Source:
    """Documents, read when they are asked for, and what tells whether they are still the same ones."""

    items: Iterator[Item]
    meter: Meter
    size: int
    """What the meter will say at the end; 0: unknown."""
    unit: str
    """What a Bad is: file, line, row."""
    files: list[Path] = field(default_factory=list)
    """The files it reads: the same ones, unchanged, give the same documents."""
    name: str = ""
    """Where the text comes from, for the data card."""
    revision: str = ""
    recognisable: bool = True
    """Whether knobs, files and revision tell all; without it the source is read anew each time."""
    tolerant: bool = False
    """What is bad is counted and never stops, whatever `data.bad` says."""


def text_of(value: object, where: str) -> Item:
    """A row's text as a whole document."""
    if not isinstance(value, str):
        return Bad(where, f"{_KINDS.get(type(value), type(value).__name__)} where text should be")
    why = no_text(value)
    return Bad(where, why) if why else (value, True)


def no_text(value: str) -> str:
    """Why a string is no text, empty where it is: JSON's escapes can say half of a surrogate pair, which no file in
    UTF-8 and no tokenizer takes."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"holds half of a surrogate pair (character {error.start}), which is no text"
    return ""


def cannot_be_used(bad: int, unit: str, first: str) -> RequestError:
    """Of `data.bad=stop`: how much is bad, the first of it, and what would do."""
    return RequestError(
        f"data: {counted(bad, unit)} cannot be used, the first is {first}; data.bad=skip leaves such out and counts "
        "them"
    )


def left_out(bad: int, first: str, unit: str = "row") -> str:
    """What `data.bad=skip` left out, to be said behind something else; empty where that is nothing."""
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
    """RequestError unless a table has all the `wanted` columns, and no two of one name."""
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
    """Bytes on the disk."""
    return sum(path.stat().st_size for path in files)


def stamps(files: Iterable[Path]) -> list[list[Any]]:
    """(path, bytes, time of the last change in ns) of each file."""
    found = []
    for path in files:
        status = path.stat()
        found.append([str(path), status.st_size, status.st_mtime_ns])
    return found
