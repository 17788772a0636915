"""Rows of tables of separated values."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rlgym.errors import RequestError
from rlgym.ssl.config import CsvData
from rlgym.ssl.data.documents import Bad, Meter, Row, Table, Unreadable, check_columns, files_size
from rlgym.ssl.data.paths import find_files
from rlgym.ssl.data.reading import lines, pieces

LONGEST_FIELD = 1 << 24
"""Characters; a longer one is rather a quote that nothing closes."""


def open_csv(config: CsvData, wanted: Sequence[str]) -> Table:
    if config.delimiter not in ("", r"\t") and (len(config.delimiter) != 1 or config.delimiter in '\r\n"'):
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
    text = (line + "\n" for line in lines(pieces(path, meter)))
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if config.quoting else csv.QUOTE_NONE
    reader = csv.reader(text, delimiter=_delimiter(path, config), quoting=quoting, strict=True)
    columns = config.columns
    line = 1
    while True:
        where = f"{path}:{line}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "; data.quoting=false takes quotes as they are" if config.quoting else ""
            why = str(error).replace("\t", r"\t")  # the delimiter, as people see it
            yield Bad(where, f"{why}{hint}")
            continue
        finally:
            line = reader.line_num + 1
        if not row:  # an empty line
            continue
        if not columns:
            columns = row
            check_columns(wanted, columns, where)
        elif len(row) != len(columns):
            yield Bad(where, f"{len(row)} values where there are {len(columns)} columns")
        else:
            yield Row(where, dict(zip(columns, row, strict=True)))


def _delimiter(path: Path, config: CsvData) -> str:
    if config.delimiter:
        return "\t" if config.delimiter == r"\t" else config.delimiter
    return "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes) else ","


@contextmanager
def _field_limit() -> Iterator[None]:
    """The module's limit is the whole process's: raised while a file is read."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
