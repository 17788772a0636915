"""Reads rows of JSON lines files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlgym.errors import RequestError
from rlgym.ssl.config import JsonlData
from rlgym.ssl.data.documents import Bad, Meter, Row, Table, Unreadable, check_columns, files_size
from rlgym.ssl.data.paths import find_files
from rlgym.ssl.data.reading import lines


def open_jsonl(config: JsonlData, wanted: Sequence[str]) -> Table:
    files = find_files(config.path, (".jsonl", ".ndjson", ".json"))
    meter = Meter()
    return Table(_files(files, config, wanted, meter), meter, files_size(files), "line", files, ", ".join(config.path))


def _files(files: list[Path], config: JsonlData, wanted: Sequence[str], meter: Meter) -> Iterator[Row | Bad]:
    found = config.bad == "skip"  # whether a row without the column is a bad row, rather than the column being wrong
    for path in files:
        begun = False
        try:
            for number, (line, why) in enumerate(lines(path, meter), 1):
                if not line.strip() and not why:
                    continue
                where = f"{path}:{number}"
                values = Bad(where, why) if why else _row(line, where)
                if isinstance(values, Bad):
                    if not begun:
                        _check_no_array(path, line)
                    yield values
                else:
                    if not found:
                        check_columns(wanted, values, where, "; data.bad=skip leaves out lines that lack it")
                    found = True
                    lacking = next((column for column in wanted if column not in values), None)
                    yield Row(where, values) if lacking is None else Bad(where, f"has no {lacking!r}")
                begun = True
        except Unreadable as error:
            yield Bad(str(path), str(error))


def _row(line: str, where: str) -> dict[str, object] | Bad:
    try:
        row = DECODER.decode(line)
    except json.JSONDecodeError as error:
        over = "; an object is one line, as jq -c . writes it" if line.strip() == "{" else ""
        return Bad(where, f"{error.msg} at character {error.pos + 1}{over}")
    except (ValueError, RecursionError) as error:
        return Bad(where, str(error))
    return row if isinstance(row, dict) else Bad(where, "not an object")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"holds {twice!r} more than once")
    return values


DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Built once, as it takes as long as a line."""


def _check_no_array(path: Path, first: str) -> None:
    """RequestError if a file starts with an array of objects."""
    first = first.strip()
    if first == "[" or first.startswith("[") and first[1:].lstrip().startswith("{"):
        raise RequestError(f"{path}: a JSON array, not an object a line; jq -c '.[]' makes lines of it for data=jsonl")
