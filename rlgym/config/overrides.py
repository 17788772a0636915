"""Parses the `key=value` arguments of a training command in Hydra's grammar, so that errors name the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rlgym.config.groups import SET_BY
from rlgym.errors import RequestError


@dataclass(frozen=True)
class Words:
    choices: dict[str, str]
    """Group -> the choice made."""
    values: dict[str, Any]
    """Dotted key -> value; scalars as typed, since the typed config decides whether 1e6 is an integer."""
    lines: list[str]
    """The same in Hydra's syntax."""
    hydra: list[str]
    """Hydra's own arguments (hydra.searchpath, hydra/launcher, ...)."""


def parse(words: Sequence[str], groups: Sequence[str]) -> Words:
    found = Words({}, {}, [], [])
    for word in words:
        override = parse_word(word)
        key, raw = override.key_or_group, word.split("=", 1)[1]
        if override.is_hydra_override():
            found.hydra.append(word)
        elif override.is_sweep_override():
            raise RequestError(f"{word}: several values are a sweep, which needs -m; a list is {key}=[{raw}]")
        elif "/" in key or override.package is not None:  # Hydra's group@package: none is needed here
            raise RequestError(f"unknown key {word.split('=', 1)[0]}")
        elif key in groups:
            _choose(found, key, override.value())
        elif key in SET_BY:
            raise RequestError(f"{word}: {key} is set by {SET_BY[key]}")
        else:
            value = override.value()
            scalar = isinstance(value, bool | int | float) and not key.startswith(("env.kwargs.", "model.config."))
            found.values[key] = raw if scalar else value
            # ++: Hydra sets the key even if unknown to it; the typed config rejects unknown keys
            found.lines.append(f"++{key}='{raw}'" if scalar else f"++{key}={raw}")
    return found


def expand(words: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep: all combinations of values, the first argument varying slowest."""
    axes: list[list[str]] = []
    for word in words:
        override = parse_word(word)
        if not override.is_sweep_override():
            axes.append([word])
            continue
        key = override.get_key_element()
        try:
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        except HydraException as error:  # interval() and glob() list no values
            raise RequestError(f"{word}: a sweep needs a list of values, like {key}=a,b or {key}=range(1,4)") from error
    return [list(job) for job in product(*axes)]


def parse_word(word: str) -> Override:
    """Parse one argument in Hydra's grammar; RequestError if it is malformed."""
    key, equals, raw = word.partition("=")
    if word.startswith("~"):
        raise RequestError(f"{word}: nothing can be removed; tuned=off and experiment=null turn those two off")
    if not equals or not key:
        raise RequestError(f"{word}: words are key=value")
    if "_target_" in word:
        raise RequestError(f"{word}: `_target_` is refused, a config cannot name code to run")
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except (HydraException, ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise RequestError(f"{word}: not in Hydra's grammar; in quotes any text is: '{key}=\"{raw}\"'") from error
    return override


def _choose(found: Words, group: str, value: Any) -> None:
    if value is None and group in ("tuned", "experiment"):
        value = "off" if group == "tuned" else None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    elif not isinstance(value, str) or not value or ".." in value or value.startswith("/"):
        raise RequestError(f"{group}={'null' if value is None else value}: must be one name")
    if value is None:
        found.choices.pop(group, None)
        return
    found.choices[group] = value
