"""Parents of runs as a tree: pretrain, finetune, reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def as_tree(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `list_runs`, each below its `parent`, with branches drawn before the names. A missing parent is shown
    by its name only.
    """
    below: dict[str | None, list[dict[str, Any]]] = {}
    names = {row["name"] for row in rows}
    for row in rows:
        parent = row["parent"]
        if parent is not None and parent not in names:
            names.add(parent)
            elsewhere = dict.fromkeys(row) | {"name": parent, "status": "elsewhere"}
            below.setdefault(None, []).append(elsewhere)
        below.setdefault(parent, []).append(row)
    found: list[dict[str, Any]] = []

    def add(row: dict[str, Any], before: str, branch: str, onward: str) -> None:
        found.append(row | {"name": before + branch + row["name"]})
        children = below.pop(row["name"], [])  # removed, so that a cycle (only by manual edits) ends
        for number, child in enumerate(children, 1):
            last = number == len(children)
            add(child, before + onward, "└─ " if last else "├─ ", "   " if last else "│  ")

    for row in below.pop(None, []):
        add(row, "", "", "")
    return found
