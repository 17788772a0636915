"""Documents from Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlgym.errors import RequestError
from rlgym.ssl.config import ParquetData
from rlgym.ssl.data.documents import Bad, Item, Meter, Source, files_size, text_of, unknown_column
from rlgym.ssl.data.paths import find_files

ROWS = 1_024
"""Rows read at once."""


def open_parquet(config: ParquetData) -> Source:
    files = find_files(config.path, (".parquet",))
    meter = Meter()
    return Source(_items(files, config, meter), meter, files_size(files), "row", files, ", ".join(config.path))


def _items(files: list[Path], config: ParquetData, meter: Meter) -> Iterator[Item]:
    import pyarrow
    import pyarrow.parquet

    for path in files:
        before, size, number = meter.done, path.stat().st_size, 0
        try:
            # Read in small parts instead of whole row groups, which may be as large as the file.
            with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                _check_column(file, config.column, path)
                rows = max(1, file.metadata.num_rows)
                for batch in file.iter_batches(ROWS, columns=[config.column]):
                    for value in batch.column(0):
                        number += 1
                        yield _item(value, f"{path}:{number}")
                    meter.done = before + size * number // rows
        except (pyarrow.ArrowException, OSError) as error:
            yield Bad(str(path), " ".join(str(error).split()))
        meter.done = before + size


def _check_column(file: Any, column: str, path: Path) -> None:
    import pyarrow.types as types

    schema = file.schema_arrow
    if column not in schema.names:
        raise unknown_column(column, schema.names, str(path))
    kind = schema.field(column).type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
        raise RequestError(f"data.column={column}: holds {kind} in {path}, not text")


def _item(value: Any, where: str) -> Item:
    try:
        return text_of(value.as_py(), where)
    except UnicodeDecodeError as error:
        return Bad(where, f"byte {error.start} is not UTF-8")
