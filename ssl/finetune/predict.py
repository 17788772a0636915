"""`predict RUN data=... out=...`: predictions of a labelled model for the rows of a table, or for one text."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlgym.common.atomic_io import to_json, write_atomic
from rlgym.config.effect import refuse_without_effect
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load
from rlgym.ssl.data.documents import Row, no_text
from rlgym.ssl.finetune import examples
from rlgym.ssl.finetune.scoring import scored
from rlgym.ssl.inference.evaluate import data_config

FORMS = (".csv", ".tsv", ".jsonl")
SHOWN = 10
"""Rows to print without an output file."""


def predict(folder: Path, words: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the table with added columns to `out`, or print the first rows; returns all rows."""
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
    left_out = ""
    if scores and (words["text"] or words["column"]):
        raise RequestError("predict: a reward model scores answers to prompts; data=... names a table of both")
    if words["text"]:
        rows, found = [{"text": words["text"]}], model.describe([words["text"]])
    else:
        data = table_config(config, words["data"], words["settings"])
        table = examples.read_table(data)
        table.rows, _ = examples.usable(table, writable, data.bad)
        if scores:
            kept, found = scored(model, config.method, table, data.bad)
        else:
            usual = config.method.text if config.method.text in table.columns else ""
            column = words["column"] or usual
            column = examples.column(table, column, "column", examples.TEXT_NAMES, examples.looks_like_text)

            def read(row: Row) -> str:
                text = examples.value(row.values, column, examples.as_text)
                model.tokenizer.check(text)
                return text

            kept, texts = examples.usable(table, read, data.bad)
            found = model.describe(texts)
        rows, left_out = [dict(row.values) for row in kept], table.left_out()
    columns = list(dict.fromkeys(name for row in rows for name in row))  # a row may lack columns of others
    taken = sorted(set(found[0]) & set(columns))
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
        if left_out:
            print(f"{len(rows):,} rows{left_out}")
        return rows
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, written(rows, [*columns, *found[0]], out.suffix))
    except OSError as error:
        raise RequestError(f"out={out}: cannot be written ({error.strerror})") from error
    print(f"{len(rows):,} rows written to {out}{left_out}")
    return rows


def table_config(config: Any, name: str, settings: dict[str, str]) -> Any:
    """Open the given table: a file, or a kind (data=csv data.path=F), read as in training."""
    found = data_config(config.data, name, settings, tables=True)
    if found.name == "default":
        raise RequestError("data=default: name a table, as in data=messages.csv")
    refuse_without_effect(replace(config, data=found), {"data": settings})
    return found


def writable(row: Row) -> None:
    """ValueError if any value of the row is text that cannot be written to a file."""
    for name, value in row.values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        if why := no_text(text):
            raise ValueError(f"{name} {why}")


def written(rows: list[dict[str, Any]], columns: list[str], suffix: str) -> str:
    """Write a file that reads back the same: lists and objects as JSON in a cell, values with newlines quoted."""
    if suffix == ".jsonl":
        return "".join(to_json(row, indent=None) for row in rows)
    lines = _Lines()
    writer = csv.DictWriter(lines, columns, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: cell(value) for name, value in row.items()})
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


class _Lines(list[str]):
    """What the csv module writes. With "\\r\\n" as line end it quotes values that hold either of them alone."""

    write = list.append


def cell(value: object) -> object:
    return to_json(value, indent=None).removesuffix("\n") if isinstance(value, list | dict) else value
