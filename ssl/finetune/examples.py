"""Labelled rows: from a table to training and held-out examples, with what was dropped and why."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlgym.errors import RequestError
from rlgym.ssl.data.documents import Bad, Row, unknown_column
from rlgym.ssl.data.sources import open_table

TEXT_NAMES = ("text", "sentence", "content", "message", "sms", "review", "document", "body", "source", "input")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "score", "rating", "y")


@dataclass
class Table:
    """All rows of a data set in memory, each with every column."""

    columns: list[str]
    rows: list[Row]
    bad: int
    first_bad: str
    name: str
    """Where they come from."""

    def facts(self) -> dict[str, Any]:
        """For the manifest: {"fingerprint", "documents", "bytes", "bad", "first_bad", "source"}."""
        digest, size = hashlib.sha256(), 0
        for row in self.rows:
            content = repr(sorted(row.values.items())).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
            size += len(content)
        found = {"fingerprint": digest.hexdigest(), "documents": len(self.rows), "bytes": size, "source": self.name}
        return found | {"bad": self.bad, "first_bad": self.first_bad}


def read_table(config: Any, wanted: Sequence[str] = ()) -> Table:
    """The rows of `data=csv|jsonl|parquet|hub`. RequestError where one is bad, unless data.bad=skip."""
    source = open_table(config, wanted)
    rows: list[Row] = []
    bad, first_bad = 0, ""
    for row in source.rows:
        if isinstance(row, Bad):
            bad, first_bad = bad + 1, first_bad or f"{row.where}: {row.why}"
        else:
            rows.append(row)
    if bad and config.bad == "stop":
        raise RequestError(
            f"data: {bad:,} {source.unit}{'' if bad == 1 else 's'} cannot be used, the first is {first_bad}; "
            "data.bad=skip leaves such out and counts them"
        )
    if not rows:
        raise RequestError(f"data: {source.name} holds no rows")
    return Table(list(rows[0].values), rows, bad, first_bad, source.name)


def column(table: Table, given: str, key: str, names: Sequence[str], fits: Any, others: Sequence[str] = ()) -> str:
    """The column that `given` says; empty: one of the usual `names`, else the only one whose values `fits`."""
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
    """Strings that mostly differ."""
    texts = [value for value in values if isinstance(value, str)]
    return len(texts) == len(values) and len(set(texts)) > len(texts) / 2


def looks_like_labels(values: Sequence[object]) -> bool:
    """Few values, again and again."""
    return len(set(map(str, values))) <= max(2, len(values) // 2)


def split(groups: Sequence[str], held_out: float, seed: int, strata: Sequence[object] | None = None) -> np.ndarray:
    """Which examples are held out, bool `[examples]`: about a share `held_out` of each of the `strata` (classes).

    Equal `groups` (texts, as they are compared) stay on one side, whatever their labels.
    """
    _, group = np.unique(np.array(groups, object).astype(str), return_inverse=True)
    first = np.unique(group, return_index=True)[1]
    stratum = np.zeros(len(groups), np.int64)
    if strata is not None:
        stratum = np.unique(np.array([str(value) for value in strata]), return_inverse=True)[1]
    sizes, random = np.bincount(group), np.random.default_rng(seed)
    held = np.zeros(len(sizes), bool)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum[first] == value)  # a group counts by its first example
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


def same_text(text: str) -> str:
    """What texts are compared by: without case and surplus blanks."""
    return " ".join(text.lower().split())
