"""How a hyper-parameter moves over the budget."""

from __future__ import annotations


def scheduled(kind: str, start: float, step: int, total: int) -> float:
    """`start` when `kind` is "constant"; for "linear" what remains of it at `step` of `total`, never below 0."""
    return start if kind == "constant" else start * max(0.0, 1.0 - step / total)
