"""Opens the source of a corpus or table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlgym.errors import RequestError
from rlgym.ssl import config as knobs
from rlgym.ssl.data.documents import Source, Table
from rlgym.ssl.data.paths import PACKED


def open_source(config: knobs.DataConfig) -> Source:
    """Open a source, checking that its files exist; nothing is read yet. Kinds are imported on demand."""
    if isinstance(config, knobs.StdlibData):
        from rlgym.ssl.data.stdlib_source import open_stdlib

        return open_stdlib(config)
    if isinstance(config, knobs.AdditionsData):
        from rlgym.ssl.data.additions_source import open_additions

        return open_additions(config)
    if isinstance(config, knobs.TextData):
        from rlgym.ssl.data.text_source import open_text

        return open_text(config)
    if isinstance(config, TABLES):
        return open_table(config, (config.column,), texts=True).documents(config.column)
    raise RequestError(f"data: {type(config).__name__} is not a readable corpus")


TABLES = (knobs.JsonlData, knobs.CsvData, knobs.ParquetData, knobs.HubData)


ENDINGS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


def kind_of(path: Path) -> str:
    """The kind of table by a file's extension, compressed or not; empty if unknown."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return ENDINGS.get(Path(name).suffix, "")


def open_table(config: knobs.DataConfig, wanted: Sequence[str] = (), texts: bool = False) -> Table:
    """Open a corpus as a table with its `wanted` columns, or all of them; `texts`: these must be strings."""
    if isinstance(config, knobs.JsonlData):
        from rlgym.ssl.data.jsonl_source import open_jsonl

        return open_jsonl(config, wanted)
    if isinstance(config, knobs.CsvData):
        from rlgym.ssl.data.csv_source import open_csv

        return open_csv(config, wanted)
    if isinstance(config, knobs.ParquetData):
        from rlgym.ssl.data.parquet_source import open_parquet

        return open_parquet(config, wanted, texts)
    if isinstance(config, knobs.HubData):
        from rlgym.ssl.data.hub_source import open_hub

        return open_hub(config, wanted)
    raise RequestError(
        f"data={getattr(config, 'name', '')} is not a table of examples; data=csv, jsonl, parquet or hub would do"
    )
