"""A small table on stdout: rich on a terminal, plain aligned lines otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rlgym.errors import RequestError
from rlgym.nearest import did_you_mean
from rlgym.words import age, matching

MEASURED = ("best", "final")
"""Columns of a run's own metric."""


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    cells = [[shown(row.get(column), column) for column in columns] for row in rows]
    numeric = [all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns]
    if sys.stdout.isatty():
        _rich(cells, columns, numeric)
    else:
        _plain(cells, columns, numeric)


def markdown(rows: Sequence[Mapping[str, str]], right: int) -> list[str]:
    """Lines of a Markdown table, padded to be one in a terminal too; columns from `right` on are numbers."""
    columns = list(rows[0])
    lines = [columns, *([row[column] for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    texts = [
        [
            cell.rjust(width) if i >= right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    rule = ["-" * (width - 1) + ":" if i >= right else "-" * width for i, width in enumerate(widths)]
    return [f"| {' | '.join(line)} |" for line in (texts[0], rule, *texts[1:])]


def fitting(rows: Sequence[dict[str, Any]], words: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that fit `agent`, `env`, `seed`, `status` (comma lists, * for anything), none older than `since`."""
    kept = list(rows)
    for column in ("agent", "env", "seed", "status"):
        if words[column]:
            fits = matching(words[column])
            kept = [row for row in kept if row[column] is not None and fits(str(row[column]))]
    if words["since"]:
        oldest = age(words["since"])
        kept = [row for row in kept if row["age_s"] <= oldest]
    return kept


def ordered(rows: Sequence[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Rows by a column, descending with a leading `-`; rows without a value come last. Values of different metrics
    compare nothing: `best` and `final` are sorted within each metric, the best of it last, or first with a `-`."""
    column = sort.removeprefix("-")
    if column not in rows[0]:
        raise RequestError(f"sort={sort}: must be one of {', '.join(rows[0])}{did_you_mean(column, rows[0], 'sort=')}")
    present = [row for row in rows if row[column] is not None]
    absent = [row for row in rows if row[column] is None]

    def place(row: dict[str, Any]) -> tuple[bool, Any]:
        value = row[column]  # a broken manifest may hold text where others hold a number
        better_lower = column in MEASURED and row["lower"] and isinstance(value, int | float)
        return isinstance(value, str), -value if better_lower else value

    present.sort(key=place, reverse=sort != column)
    if column in MEASURED:
        present.sort(key=lambda row: str(row["metric"]))
    return present + absent


def shown(value: Any, column: str = "") -> str:
    if value is None:
        return "-"
    if column.endswith("_s") and abs(value) < 1e11:  # seconds
        return str(timedelta(seconds=round(value)))
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _title(column: str) -> str:
    return column.removesuffix("_s").replace("_", " ")


def _plain(cells: list[list[str]], columns: Sequence[str], numeric: list[bool]) -> None:
    lines = [[_title(column) for column in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        texts = (t.rjust(w) if right else t.ljust(w) for t, w, right in zip(line, widths, numeric, strict=True))
        print("  ".join(texts).rstrip())


def _rich(cells: list[list[str]], columns: Sequence[str], numeric: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for column, right in zip(columns, numeric, strict=True):
        table.add_column(_title(column), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for line in cells:
        table.add_row(*(Text(text) for text in line))
    Console().print(table)
