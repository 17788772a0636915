"""`predict RUN data=... out=...`: what a finished labelled model says of each row of a table, or of one text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from rlgym.config_file import load_config
from rlgym.errors import RequestError
from rlgym.files import write_atomic
from rlgym.loading import load
from rlgym.run import Run
from rlgym.ssl.evaluate import data_config
from rlgym.ssl.finetune import examples
from rlgym.ssl.finetune.scoring import scored

FORMS = (".csv", ".tsv", ".jsonl")
TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
SHOWN = 10
"""Rows that are printed where no file is asked for."""


def predict(folder: Path, words: dict[str, Any]) -> list[dict[str, Any]]:
    """Writes the table with the new columns behind its own to `out`, or prints the first rows; returns all rows."""
    config = load_config(folder, trust=words["trust"])
    scores = config.method.name == "reward_model"
    if not scores and not hasattr(config.method, "text"):
        raise RequestError(f"predict: method={config.method.name} has no prediction for a text; generate may do")
    if (words["text"] == "") == (words["data"] == ""):
        raise RequestError("predict needs either text=... or data=...: a table with the texts")
    out = Path(words["out"]).expanduser() if words["out"] else None
    if out is not None and out.suffix not in FORMS:
        raise RequestError(f"out={out}: must end in {', '.join(FORMS)}")
    model = load(Run(folder), words["checkpoint"], words["device"], words["trust"])
    rows: list[dict[str, Any]]
    if scores:
        if words["text"] or words["column"]:
            raise RequestError("predict: a reward model scores answers to prompts; data=... names a table of both")
        rows, found = scored(
            model, config.method, examples.read_table(table_config(config, words["data"], words["settings"]))
        )
    elif words["text"]:
        rows = [{"text": words["text"]}]
        found = model.describe([words["text"]])
    else:
        table = examples.read_table(table_config(config, words["data"], words["settings"]))
        column = words["column"] or (config.method.text if config.method.text in table.columns else "")
        column = examples.column(table, column, "column", examples.TEXT_NAMES, examples.looks_like_text)
        kept, (texts,) = examples.usable(table, [(column, examples.as_text)], "stop")
        rows = [dict(row.values) for row in kept]
        found = model.describe(texts)
    taken = sorted(set(found[0]) & set(rows[0]))
    if taken:
        raise RequestError(f"data: the table has a column {taken[0]!r} already; rename it")
    rows = [row | new for row, new in zip(rows, found, strict=True)]
    if out is None:
        for new in found[:SHOWN]:
            print(
                "  ".join(f"{key} {one:.4g}" if isinstance(one, float) else f"{key} {one}" for key, one in new.items())
            )
        if len(rows) > SHOWN:
            print(f"... and {len(rows) - SHOWN:,} more; out=FILE.csv or out=FILE.jsonl writes all")
        return rows
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, written(rows, out.suffix))
    except OSError as error:
        raise RequestError(f"out={out}: cannot be written ({error.strerror})") from error
    print(f"{len(rows):,} rows written to {out}")
    return rows


def table_config(config: Any, name: str, settings: dict[str, str]) -> Any:
    """The table that the words name: a file by its ending, or a kind (data=csv data.path=F). What the run's own data
    says of columns and quoting holds for a file of its kind, too."""
    path = Path(name).expanduser()
    kind = TABLES.get(path.suffix.lower())
    if kind and path.is_file() and "path" not in settings:
        name, settings = kind, {"path": str(path), **settings}
    if name == "default":
        raise RequestError("data=default: name a table, as in data=messages.csv")
    if name == "csv" and config.data.name == "csv" and not {"columns", "quoting", "delimiter"} & set(settings):
        first = Path(settings.get("path", ""))
        if not _has_header(first, config):
            own = config.data
            settings = {
                "columns": f"[{','.join(own.columns)}]",
                "quoting": str(own.quoting).lower(),
                "delimiter": own.delimiter,
                **settings,
            }
    return data_config(None, name, settings)


def _has_header(path: Path, config: Any) -> bool:
    """Whether a file says its columns itself: its first line holds the run's column of texts as a name."""
    if not config.data.columns:
        return True
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError):
        return True
    column = config.method.text if hasattr(config.method, "text") else config.method.prompt
    return column in first.rstrip("\n").replace("\t", ",").split(",")


def written(rows: list[dict[str, Any]], suffix: str) -> str:
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    buffer = io.StringIO()
    writer = csv.DictWriter(
        buffer, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
