"""Filtering and sorting of the table of `rlgym runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlgym.common.suggest import did_you_mean
from rlgym.config.options import age, matching
from rlgym.errors import RequestError

MEASURED = ("best", "final")
"""Columns with the run's monitored metric."""


def matching_rows(rows: Sequence[dict[str, Any]], words: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Select rows by `agent`, `env`, `seed`, `status` (comma lists, * matches anything) and by age (`since`)."""
    kept = list(rows)
    for column in ("agent", "env", "seed", "status"):
        if words[column]:
            fits = matching(words[column])
            kept = [row for row in kept if row[column] is not None and fits(str(row[column]))]
    if words["since"]:
        oldest = age(words["since"])
        kept = [row for row in kept if row["age_s"] <= oldest]
    return kept


def sorted_rows(rows: Sequence[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Sort rows by a column, descending with a leading `-`; rows without a value come last. `best` and `final` are
    sorted within each metric, with the best value last, or first with a `-`."""
    column = sort.removeprefix("-")
    if column not in rows[0]:
        raise RequestError(f"sort={sort}: must be one of {', '.join(rows[0])}{did_you_mean(column, rows[0], 'sort=')}")
    present = [row for row in rows if row[column] is not None]
    absent = [row for row in rows if row[column] is None]

    def place(row: dict[str, Any]) -> tuple[bool, Any]:
        value = row[column]  # a broken manifest may hold text instead of a number
        better_lower = column in MEASURED and row["lower"] and isinstance(value, int | float)
        return isinstance(value, str), -value if better_lower else value

    present.sort(key=place, reverse=sort != column)
    if column in MEASURED:
        present.sort(key=lambda row: str(row["metric"]))
    return present + absent
