"""Reads rows of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from rlgym.errors import RequestError
from rlgym.ssl.config import ParquetData
from rlgym.ssl.data.documents import Bad, Meter, Row, Table, check_columns, files_size
from rlgym.ssl.data.paths import find_files

ROWS = 1_024
"""Rows per batch."""


def open_parquet(config: ParquetData, wanted: Sequence[str], texts: bool = False) -> Table:
    """`texts`: the wanted columns must be strings."""
    files = find_files(config.path, (".parquet",))
    meter = Meter()
    return Table(_files(files, wanted, texts, meter), meter, files_size(files), "row", files, ", ".join(config.path))


def _files(files: list[Path], wanted: Sequence[str], texts: bool, meter: Meter) -> Iterator[Row | Bad]:
    import pyarrow
    import pyarrow.parquet

    for path in files:
        before, size, number = meter.done, path.stat().st_size, 0
        try:
            # Read in small batches, as row groups may be as large as the file.
            with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                check_columns(wanted, file.schema_arrow.names, str(path))
                if texts:
                    _check_texts(file, wanted, path)
                groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
                for group, end in enumerate(accumulate(groups)):
                    try:
                        for batch in file.iter_batches(ROWS, [group], list(wanted) or None):
                            for values in zip(*batch.columns, strict=True):
                                number += 1
                                yield _row(batch.schema.names, values, f"{path}:{number}")
                            meter.done = before + size * number // sum(groups)
                    except (pyarrow.ArrowException, OSError) as error:  # the rest of the row group is lost
                        why = " ".join(str(error).split())
                        yield from (Bad(f"{path}:{lost}", why) for lost in range(number + 1, end + 1))
                        number = end
        except (pyarrow.ArrowException, OSError) as error:
            yield Bad(str(path), " ".join(str(error).split()))
        meter.done = before + size


def _check_texts(file: Any, columns: Sequence[str], path: Path) -> None:
    import pyarrow.types as types

    for column in columns:
        kind = file.schema_arrow.field(column).type
        inner = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
            raise RequestError(f"data.column={column}: holds {kind} in {path}, not text")


def _row(names: Sequence[str], values: Sequence[Any], where: str) -> Row | Bad:
    try:
        return Row(where, {name: value.as_py() for name, value in zip(names, values, strict=True)})
    except UnicodeDecodeError as error:
        return Bad(where, f"byte {error.start} is not UTF-8")
