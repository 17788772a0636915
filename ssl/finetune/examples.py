"""From a table to training and held-out examples, counting dropped rows."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from rlgym.errors import RequestError
from rlgym.ssl.data.documents import Bad, Row, cannot_be_used, left_out, no_text, unknown_column
from rlgym.ssl.data.sources import open_table

TEXT_NAMES = ("text", "sentence", "content", "message", "sms", "review", "document", "body", "source", "input")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "score", "rating", "y")


INPUT_NAME = "input"
WHOLE = re.compile(r"[-+]?\d{1,18}\.0+")
"""An integer written as a float."""
T = TypeVar("T")


@dataclass
class Table:
    """A data set in memory; every row has every column."""

    columns: list[str]
    rows: list[Row]
    bad: int
    first_bad: str
    name: str
    """Source of the rows."""

    def facts(self) -> dict[str, Any]:
        """For the manifest: {"fingerprint", "documents", "bytes", "bad", "first_bad", "source"}."""
        digest, size = hashlib.sha256(), 0
        for row in self.rows:
            content = repr(sorted(row.values.items())).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
            size += len(content)
        found = {"fingerprint": digest.hexdigest(), "documents": len(self.rows), "bytes": size, "source": self.name}
        return found | {"bad": self.bad, "first_bad": self.first_bad}

    def left_out(self) -> str:
        return left_out(self.bad, self.first_bad)


def read_table(config: Any) -> Table:
    """Read `data=csv|jsonl|parquet|hub`. RequestError for a bad row, unless data.bad=skip."""
    source = open_table(config)
    rows: list[Row] = []
    columns: dict[str, None] = {}
    bad, first_bad = 0, ""
    for row in source.rows:
        if isinstance(row, Row):
            new = [name for name in row.values if name not in columns]  # a row may lack columns of others
            if why := next(filter(None, map(no_text, new)), ""):
                row = Bad(row.where, f"the name of a value {why}")
            else:
                rows.append(row)
                columns.update(dict.fromkeys(new))
        if isinstance(row, Bad):
            bad, first_bad = bad + 1, first_bad or f"{row.where}: {row.why}"
    if bad and config.bad == "stop":
        raise cannot_be_used(bad, source.unit, first_bad)
    if not rows:
        raise RequestError(f"data: {source.name} holds no rows" + (f" that can be used: {first_bad}" if bad else ""))
    return Table([*columns], rows, bad, first_bad, source.name)


def column(
    table: Table,
    given: str,
    key: str,
    names: Sequence[str],
    fits: Callable[[Sequence[object]], bool],
    others: Sequence[str] = (),
) -> str:
    """The column `given`; if empty, one of the usual `names`, else the only one whose values `fits`."""
    if given:
        if given not in table.columns:
            raise unknown_column(given, table.columns, table.name, key)
        return given
    left = [name for name in table.columns if name not in others]
    by_name = [name for name in left if name.lower() in names]
    if by_name:
        return min(by_name, key=lambda name: names.index(name.lower()))
    fitting = [name for name in left if fits([row.values.get(name) for row in table.rows[:1_000]])]
    if len(fitting) == 1:
        return fitting[0]
    raise RequestError(f"{key} is empty and {table.name} has several columns ({', '.join(table.columns)}): name one")


def looks_like_text(values: Sequence[object]) -> bool:
    """Whether values are mostly distinct strings."""
    texts = [value for value in values if isinstance(value, str)]
    return len(texts) == len(values) and len(set(texts)) > len(texts) / 2


def looks_like_labels(values: Sequence[object]) -> bool:
    """Whether values are few and repeated."""
    return len(set(map(str, values))) <= max(2, len(values) // 2)


def looks_like_numbers(values: Sequence[object]) -> bool:
    return all(_number(value) is not None for value in values)


# ---- what a row must hold


def usable(table: Table, read: Callable[[Row], T], bad: str) -> tuple[list[Row], list[T]]:
    """Convert rows by `read`, which raises ValueError (a tokenizer: RequestError) for unusable ones. Those give a
    RequestError, or are skipped and counted in the table if `bad` is skip.
    """
    kept: list[Row] = []
    found: list[T] = []
    wrong, first = 0, ""
    for row in table.rows:
        try:
            found.append(read(row))
            kept.append(row)
        except (ValueError, RequestError) as error:
            wrong, first = wrong + 1, first or f"{row.where}: {error}"
    if wrong and bad == "stop":
        raise cannot_be_used(wrong, "row", first)
    table.bad, table.first_bad = table.bad + wrong, table.first_bad or first
    if not kept:
        raise RequestError(f"data: no row of {table.name} can be used, the first is {first}")
    return kept, found


def value(values: Mapping[str, object], column: str, read: Callable[[object], T]) -> T:
    """Convert a row's value by `read`, adding the column's name to its ValueError."""
    try:
        return read(values.get(column))
    except ValueError as error:
        raise ValueError(f"{column} {error}") from None


def input_column(table: Table, prompt: str) -> str:
    """The column with the input of an instruction in column `prompt`, as in Alpaca's data; empty: none."""
    return next((name for name in table.columns if name.lower() == INPUT_NAME and name != prompt), "")


def with_input(values: Mapping[str, object], prompt: str, below: str) -> str:
    """A row's prompt, followed by the value of column `below`, if any."""
    text = value(values, prompt, as_text)
    given = values.get(below) if below else None
    return text if given in (None, "") else f"{text}\n{value(values, below, as_string)}"


def as_string(value: object) -> str:
    """Read a string, possibly empty."""
    if not isinstance(value, str):
        if isinstance(value, list):
            raise ValueError("is a list, as of chat messages: must be one text")
        raise ValueError("is empty" if _nothing(value) else f"is {_shown(value)}, no text")
    if why := no_text(value):
        raise ValueError(why)
    return value


def as_text(value: object) -> str:
    text = as_string(value)
    if not text.strip():
        raise ValueError("is empty")
    return text


def as_label(value: object) -> str:
    """Read a label as a string."""
    if _nothing(value):
        raise ValueError("is empty" if value is None or not str(value).strip() else "is NaN")
    if not isinstance(value, str | int | float):  # a boolean is an int
        raise ValueError(f"is {_shown(value)}, no label")
    return label_name(as_string(str(value)))


def label_name(text: str) -> str:
    """Normalise integers and booleans: 0, 0.0, "0.0"; true, "True"."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.capitalize()
    return str(int(text.partition(".")[0])) if WHOLE.fullmatch(text) else text


def as_number(value: object) -> float:
    if value is None or not str(value).strip():
        raise ValueError("is empty")
    number = _number(value)
    if number is None:
        raise ValueError(f"is {_shown(value)}, no number")
    if not math.isfinite(number):
        raise ValueError("is NaN" if math.isnan(number) else "is infinite")
    return number


def _shown(value: object) -> str:
    return repr(str(value)[:40])


def _nothing(value: object) -> bool:
    return value is None or str(value).strip().lower() in ("", "nan")


def _number(value: object) -> float | None:
    if not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except ValueError:
        return None


# ---- training and held-out


def split(groups: Sequence[str], held_out: float, seed: int, strata: Sequence[object] | None = None) -> np.ndarray:
    """Select held-out examples, bool `[examples]`: about a share `held_out` of each of the `strata` (classes), all if
    it is 1. Equal `groups` (normalised texts) stay on one side.
    """
    if held_out >= 1:
        return np.ones(len(groups), bool)
    group = numbered(groups)
    first = np.unique(group, return_index=True)[1]
    stratum = np.zeros(len(groups), np.int64)
    if strata is not None:
        stratum = np.unique(np.array([str(value) for value in strata]), return_inverse=True)[1]
    sizes, random = np.bincount(group), np.random.default_rng(seed)
    held = np.zeros(len(sizes), bool)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum[first] == value)  # a group's class is that of its first example
        order = members[random.permutation(len(members))]
        wanted = held_out * sizes[members].sum()
        before = np.cumsum(sizes[order]) - sizes[order]
        held[order[before + sizes[order] / 2 <= wanted]] = True
    found: np.ndarray = held[group]
    if not found.any() or found.all():
        raise RequestError(
            f"{len(sizes):,} different examples are too few to hold out a share of {held_out:g}; add more, or change "
            "method.held_out"
        )
    return found


def numbered(groups: Sequence[str]) -> np.ndarray:
    """Group number of each example, int64 `[examples]`."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def share_of(members: np.ndarray, share: float, seed: int, strata: Sequence[object]) -> np.ndarray:
    """A sorted subset of the examples `members`, with at least one of each of the `strata [members]`."""
    if share >= 1:
        return members
    random, kept = np.random.default_rng([seed, 1]), []
    kinds = np.array([str(value) for value in strata])
    for kind in np.unique(kinds):
        those = members[kinds == kind]
        kept.append(random.permutation(those)[: max(1, round(share * len(those)))])
    return np.sort(np.concatenate(kept))


def same_text(text: str) -> str:
    """A text normalised for comparison: case and repeated blanks removed."""
    return " ".join(text.lower().split())
