""" "Did you mean": the known word closest to a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The most similar known word, or None. For dotted keys the last part decides, the others break ties."""
    scored = {name: _alike(_last(word), _last(name)) + 0.1 * _alike(word, name) for name in known}
    best = max(scored, key=lambda name: scored[name], default=None)
    return best if best is not None and _alike(_last(word), _last(best)) >= 0.6 else None


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """' - did you mean <prefix><name>?' for the end of an error line; empty when nothing is close."""
    name = nearest(word, known)
    return f" - did you mean {prefix}{name}?" if name else ""


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _alike(a: str, b: str) -> float:
    return SequenceMatcher(None, a.lower(), b.lower()).ratio()
