"""Types of the records in a run folder (manifest.json, summary.json, a sweep's process). A folder may be damaged or
come from elsewhere, and its records are editable JSON: a field of the wrong type counts as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict


class Process(TypedDict, total=False):
    host: str
    pid: int
    pid_start: float


class Vocabulary(TypedDict, total=False):
    vocabulary: str
    vocab_size: int
    fingerprint: str


class Data(TypedDict, total=False):
    fingerprint: str
    documents: int
    bytes: int
    tokenizer: Vocabulary


class Parent(TypedDict, total=False):
    run: str
    folder: str
    dir: str
    root: str
    data: Data | None
    parent: Parent | None


class Position(TypedDict):
    """A learner's progress."""

    step: int
    update: int


class Manifest(Process, total=False):
    command: list[str]
    root: str
    agent: str
    env: str
    seed: int | str
    status: str
    start: str
    end: str | None
    data: Data | None
    parent: Parent | None
    resume: dict[str, str] | None
    files: dict[str, str]
    resumed_from: list[int]
    without_replay: list[int]
    data_before: list[Data]


class Summary(TypedDict, total=False):
    status: str
    reason: str
    steps: int
    updates: int
    wall_time_s: float
    steps_per_second: float | None
    final: dict[str, float | None]
    best: dict[str, float | None] | None


def sound(data: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Drop fields whose type differs from the declaration of `kind`, a TypedDict; undeclared fields are kept."""
    hints = get_type_hints(kind)
    return {key: value for key, value in data.items() if key not in hints or fits(value, hints[key])}


def expect(data: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Check a record strictly: ValueError if a field declared by `kind`, a TypedDict or dataclass, has another type, or
    a required one is missing."""
    for key, hint in get_type_hints(kind).items():
        if key in data and not fits(data[key], hint):
            raise ValueError(f"{key}={data[key]!r:.60}: not what belongs there")
    for key in sorted(getattr(kind, "__required_keys__", frozenset()) - data.keys()):
        raise ValueError(f"it has no {key}")
    return dict(data)


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data has a type: None, bool, int, float (including integers), str, unions of these, lists, dicts
    with string keys, and TypedDicts, whose undeclared keys may have any type."""
    if hint is Any:
        return True
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(fits(value, inner) for inner in get_args(hint))
    if origin is list:
        (inner,) = get_args(hint)
        return isinstance(value, list) and all(fits(part, inner) for part in value)
    if origin is dict:
        inner = get_args(hint)[1]
        return isinstance(value, Mapping) and all(isinstance(k, str) and fits(v, inner) for k, v in value.items())
    if is_typeddict(hint):
        needed = hint.__required_keys__
        return isinstance(value, Mapping) and needed <= value.keys() and len(sound(value, hint)) == len(value)
    if hint in (None, NoneType):
        return value is None
    if hint in (int, float):
        return isinstance(value, hint | int) and not isinstance(value, bool) and _moderate(value)
    return isinstance(value, hint)


def count(value: Any, most: float = math.inf) -> Any:
    """Return `value` if it is a number from 0 to `most`, else raise ValueError."""
    if not fits(value, float) or not 0 <= value <= most:
        raise ValueError(f"{value!r:.40} stands where a number from 0 to {most} belongs")
    return value


def _moderate(value: float) -> bool:
    """Whether a number fits into 64 bits, since JSON's integers may have any length."""
    return isinstance(value, float) or abs(value) < 10**300
