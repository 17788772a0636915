"""Prints small tables: with rich on a terminal, as aligned text otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    cells = [[shown(row.get(column), column) for column in columns] for row in rows]
    numeric = [all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns]
    if sys.stdout.isatty():
        _rich(cells, columns, numeric)
    else:
        _plain(cells, columns, numeric)


def markdown(rows: Sequence[Mapping[str, str]], right: int) -> list[str]:
    """Lines of a Markdown table, padded to be readable in a terminal; columns from `right` on are right-aligned."""
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
