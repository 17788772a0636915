"""Documents from files with one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rlgym.ssl.config import JsonlData
from rlgym.ssl.data.documents import Bad, Item, Meter, Source, Unreadable, files_size, text_of, unknown_column
from rlgym.ssl.data.paths import find_files
from rlgym.ssl.data.reading import lines, pieces


def open_jsonl(config: JsonlData) -> Source:
    files = find_files(config.path, (".jsonl", ".ndjson", ".json"))
    meter = Meter()
    return Source(_items(files, config, meter), meter, files_size(files), "line", files, ", ".join(config.path))


def _items(files: list[Path], config: JsonlData, meter: Meter) -> Iterator[Item]:
    column = config.column
    found = config.bad == "skip"  # whether a row without the column is one bad row, rather than the wrong column
    for path in files:
        try:
            for number, line in enumerate(lines(pieces(path, meter)), 1):
                if not line or line.isspace():
                    continue
                where = f"{path}:{number}"
                row = _row(line, where)
                if isinstance(row, dict):
                    if column not in row and not found:
                        raise unknown_column(column, row, where)
                    found = True
                    yield text_of(row[column], where) if column in row else Bad(where, f"has no {column!r}")
                else:
                    yield row
        except Unreadable as error:
            yield Bad(str(path), str(error))


def _row(line: str, where: str) -> dict[str, object] | Bad:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return Bad(where, f"{error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:
        return Bad(where, str(error))
    return row if isinstance(row, dict) else Bad(where, "not an object")
