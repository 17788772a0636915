"""Rows of files with one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlgym.ssl.config import JsonlData
from rlgym.ssl.data.documents import Bad, Meter, Row, Table, Unreadable, check_columns, files_size
from rlgym.ssl.data.paths import find_files
from rlgym.ssl.data.reading import lines, pieces


def open_jsonl(config: JsonlData, wanted: Sequence[str]) -> Table:
    files = find_files(config.path, (".jsonl", ".ndjson", ".json"))
    meter = Meter()
    return Table(_files(files, config, wanted, meter), meter, files_size(files), "line", files, ", ".join(config.path))


def _files(files: list[Path], config: JsonlData, wanted: Sequence[str], meter: Meter) -> Iterator[Row | Bad]:
    found = config.bad == "skip"  # whether a row without a column is one bad row, rather than the wrong column
    for path in files:
        try:
            for number, line in enumerate(lines(pieces(path, meter)), 1):
                if not line or line.isspace():
                    continue
                where = f"{path}:{number}"
                values = _row(line, where)
                if isinstance(values, Bad):
                    yield values
                    continue
                if not found:
                    check_columns(wanted, values, where)
                found = True
                lacking = next((column for column in wanted if column not in values), None)
                yield Row(where, values) if lacking is None else Bad(where, f"has no {lacking!r}")
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
