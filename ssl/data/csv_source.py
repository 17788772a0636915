"""Reads rows of CSV and similar tables."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from rlgym.errors import RequestError
from rlgym.ssl.config import CsvData
from rlgym.ssl.data.documents import Bad, Meter, Row, Table, Unreadable, check_columns, files_size
from rlgym.ssl.data.paths import find_files
from rlgym.ssl.data.reading import lines, unescaped

LONGEST_FIELD = 1 << 24
"""Longest row in characters; a longer one is probably an unclosed quote."""


DELIMITERS = ",;\t|"
"""Common delimiters."""


def open_csv(config: CsvData, wanted: Sequence[str]) -> Table:
    delimiter = unescaped(config.delimiter)
    if len(delimiter) > 1 or delimiter in ('"', "\r", "\n"):
        raise RequestError(rf"data.delimiter={config.delimiter!r}: must be one character, as in ';' or '\t'")
    if config.columns:
        check_columns(wanted, config.columns, "data.columns")
    files = find_files(config.path, (".csv", ".tsv"))
    meter = Meter()
    return Table(_files(files, config, wanted, meter), meter, files_size(files), "row", files, ", ".join(config.path))


def _files(files: list[Path], config: CsvData, wanted: Sequence[str], meter: Meter) -> Iterator[Row | Bad]:
    for path in files:
        try:
            with _field_limit():
                yield from _rows(path, config, wanted, meter)
        except Unreadable as error:
            yield Bad(str(path), str(error))


def _rows(path: Path, config: CsvData, wanted: Sequence[str], meter: Meter) -> Iterator[Row | Bad]:
    delimiter = delimiter_of(path, config)
    columns = config.columns
    for where, row, why in _records(path, delimiter, config.quoting, meter):
        if columns and why:
            yield Bad(where, why)
        elif columns and len(row) != len(columns):
            yield Bad(where, f"{len(row)} values where there are {len(columns)} columns")
        elif columns:
            yield Row(where, dict(zip(columns, row, strict=True)))
        elif why:
            raise RequestError(f"{where}: the header cannot be read: {why}")
        else:
            columns = _header(row, wanted, where, delimiter)


def first_row(path: Path, config: CsvData) -> list[str]:
    """The first row of a file, header or not; empty if unreadable."""
    with _field_limit(), suppress(Unreadable):
        for _, row, _ in _records(path, delimiter_of(path, config), config.quoting, Meter()):
            return row
    return []


def _records(path: Path, delimiter: str, quoting: bool, meter: Meter) -> Iterator[tuple[str, list[str], str]]:
    """(position, values, error or empty) of every row that is not blank."""
    feed = _Feed(lines(path, meter))
    way: Literal[0, 3] = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    reader = csv.reader(feed, delimiter=delimiter, quoting=way, strict=True)
    number = 1
    while True:
        row, why = [], ""
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            feed.go_back()
            why = str(error).replace("\t", r"\t")  # the delimiter in readable form
            if why.startswith("new-line character"):  # csv's hint is about opening files in Python
                why = r"a carriage return outside of quotes; where lines end in these alone, tr '\r' '\n' makes others"
            elif quoting:
                why += "; data.quoting=false takes quotes as they are"
        where = f"{path}:{number}"
        number += len(feed.taken)
        why = next((no_text for _, no_text in feed.taken if no_text), why)
        feed.taken.clear()
        if row or why:
            yield where, row, why


class _Feed:
    """Feeds lines to the csv module, which consumes one or more per row."""

    def __init__(self, lines: Iterator[tuple[str, str]]) -> None:
        self.lines = lines
        self.taken: list[tuple[str, str]] = []
        """Lines of the current row."""
        self.again: deque[tuple[str, str]] = deque()

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.lines)
        self.taken.append(line)
        return line[0] + "\n"

    def go_back(self) -> None:
        """Go back to the second line of a malformed row: an unclosed quote swallows the rows below it."""
        self.again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _header(row: list[str], wanted: Sequence[str], where: str, delimiter: str) -> list[str]:
    """Column names; unnamed ones are named as in pandas."""
    columns = [name or f"Unnamed: {i}" for i, name in enumerate(row)] if row.count("") > 1 else row
    likely = [other for other in DELIMITERS if other != delimiter and other in columns[0]]
    if len(columns) == 1 and likely and columns[0] not in wanted:
        raise RequestError(
            f"{where}: the only column is {columns[0]!r}; data.delimiter sets the value separator, {likely[0]!r} here?"
        )
    check_columns(wanted, columns, where)
    return columns


def delimiter_of(path: Path, config: CsvData) -> str:
    if config.delimiter:
        return unescaped(config.delimiter)
    return "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes) else ","


@contextmanager
def _field_limit() -> Iterator[None]:
    """Raise the csv module's field size limit, which is global, while a file is read."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
