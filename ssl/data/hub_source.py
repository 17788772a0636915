"""Reads rows of a data set by the `datasets` library: by name on the hub, or from a local folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlgym.errors import RequestError
from rlgym.ssl.config import HubData
from rlgym.ssl.data.documents import Bad, Meter, Row, Table, check_columns
from rlgym.ssl.data.paths import files_below

ROWS = 1_000
"""Rows per batch."""


def open_hub(config: HubData, wanted: Sequence[str]) -> Table:
    if not config.path:
        raise RequestError("data.path is empty: data=hub needs a data set, as in data.path=roneneldan/TinyStories")
    folder = Path(config.path).expanduser()
    meter = Meter()
    total = config.max_documents or 0
    if folder.is_dir():
        files = files_below(folder.absolute())
        rows = _numbered(config, str(folder.absolute()), "", wanted, meter)
        return Table(rows, meter, total, "row", files, config.path)
    revision = _commit(config)
    rows = _numbered(config, config.path, revision or config.revision, wanted, meter)
    name = f"https://huggingface.co/datasets/{config.path}"
    return Table(rows, meter, total, "row", [], name, revision or config.revision, recognisable=bool(revision))


def _commit(config: HubData) -> str:
    """The revision's current commit; empty if the hub is unreachable."""
    if re.fullmatch(r"[0-9a-f]{40}", config.revision):
        return config.revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(config.path, revision=config.revision or None, timeout=10).sha or ""
    except Exception:  # no network, or no such data set: loading will report it, or use earlier downloads
        return ""


def _numbered(config: HubData, path: str, revision: str, wanted: Sequence[str], meter: Meter) -> Iterator[Row | Bad]:
    rows = _rows(config, path, revision, wanted)
    found = config.bad == "skip"
    while config.max_documents is None or meter.done < config.max_documents:
        try:
            row = next(rows, None)
        except RequestError:
            raise
        except Exception as error:  # network, decoder or file errors of any kind
            raise _one_line(config, error) from error
        if row is None:
            return
        meter.done += 1
        where = f"{config.path}, row {meter.done}"
        if not found:
            check_columns(wanted, row, config.path)
        found = True
        lacking = next((column for column in wanted if column not in row), None)
        yield Row(where, row) if lacking is None else Bad(where, f"has no {lacking!r}")


def _rows(config: HubData, path: str, revision: str, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    import datasets

    # A local folder is streamed, as the library would copy it otherwise; only slices of a split need the copy.
    streaming = config.streaming or (Path(path).is_dir() and "[" not in config.split)
    data = datasets.load_dataset(
        path, config.config or None, split=config.split, revision=revision or None, streaming=streaming
    )
    if data.column_names is not None:
        check_columns(wanted, data.column_names, config.path)
        if wanted:
            data = data.select_columns(list(wanted))
    for batch in data.iter(batch_size=ROWS):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(names, values, strict=True))


def _one_line(config: HubData, error: Exception) -> RequestError:
    said = " ".join(str(error).split())[:300]
    chosen = f"data.path={config.path}" + (f" data.config={config.config}" if config.config else "")
    chosen += f" data.split={config.split}" + (f" data.revision={config.revision}" if config.revision else "")
    remedy = ""
    if Path(config.path).is_dir():  # the library stops at the first unreadable row
        remedy = "; data=jsonl, csv or parquet with data.path=FILE reads such a file itself and names what is bad in it"
    return RequestError(f"{chosen}: cannot be loaded ({type(error).__name__}: {said}){remedy}")
