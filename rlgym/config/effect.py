"""Refuses given keys without effect, naming the value they depend on. A field declares what it needs beside its
default: `needs="distributional=c51"`, a key of the same dataclass (or, after a slash, of the whole config) and patterns
of its value. `!=` negates, ` or ` joins two, and a reason may follow a colon. Without a key, `needs` is the reason why
the field never has an effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any

from rlgym.config.parser import flattened
from rlgym.errors import RequestError


def refuse_without_effect(config: Any, given: Mapping[str, Any]) -> None:
    """RequestError where a dotted key given by the user has no effect in `config`."""
    for key, value in flattened(given):
        if found := without_effect(config, key):
            raise no_effect(key, value, found[1])


def no_effect(key: str, value: Any, why: str) -> RequestError:
    return RequestError(f"{key}={shown(value)} has no effect because {why}")


def refuse_given(config: Any, section: str, keys: Iterable[str], why: str) -> None:
    """RequestError where the user gave one of these keys of a section, found to have no effect after building."""
    for key in keys:
        if f"{section}.{key}" in config.given:
            raise no_effect(f"{section}.{key}", getattr(getattr(config, section), key), why)


def without_effect(config: Any, key: str) -> tuple[str, str] | None:
    """(the key it depends on, why `key` has no effect), or None if it has one."""
    node, path = config, ""
    for part in key.split("."):
        knob = {f.name: f for f in fields(node)}.get(part) if is_dataclass(node) else None
        if knob is None:
            return None
        for need in knob.metadata.get("needs", ()):
            if found := _unmet(config, node, path, need):
                return found
        node, path = getattr(node, part), f"{path}{part}."
    return None


def shown(value: Any) -> str:
    """A value as typed on the command line."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unmet(config: Any, node: Any, path: str, need: str) -> tuple[str, str] | None:
    conditions, _, reason = need.partition(": ")
    first = None
    for condition in conditions.split(" or "):
        key, equals, patterns = condition.partition("=")
        if not equals:
            return "", need
        name = key.rstrip("!")
        full, holder = (name[1:], config) if name.startswith("/") else (path + name, node)
        for part in name.lstrip("/").split("."):
            holder = getattr(holder, part, None)
        value, full = shown(holder), full.removesuffix(".name")  # objective=masked chooses objective.name
        if any(fnmatchcase(value, pattern) for pattern in patterns.split(",")) != key.endswith("!"):
            return None
        plain = patterns and not key.endswith("!") and not set("*,") & set(patterns)
        remedy = f"; {full}={patterns} would do" if plain else ""
        first = first or (full, reason or (f"{full}={value}" if value else f"{full} is empty") + remedy)
    return first
