"""Parses plain data into typed configs: the dataclass declares keys, types and bounds. Values may be strings
(`steps=1e6` on a command line) or YAML types; every mismatch is a RequestError that names the key, the value and what
would do.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from rlgym.common.suggest import did_you_mean
from rlgym.errors import RequestError

T = TypeVar("T")
N = TypeVar("N", int, float)
INT_64 = 2**63 - 1
FLOAT_32 = 3.4e38


def build(cls: type[T], data: Mapping[str, Any], path: str = "", known: Iterable[str] = ()) -> T:
    """Build `cls` from `data` and its defaults. `known`: further dotted keys to suggest."""
    hints = get_type_hints(cls)
    own: dict[str, Field[Any]] = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    for key, value in data.items():
        if key not in own:
            full = _join(path, _whole(str(key), value))
            raise RequestError(f"unknown key {full}{did_you_mean(full, [*keys(cls, path), *known])}")
    values = {}
    for name, f in own.items():
        if name in data:
            values[name] = _convert(data[name], hints[name], f.metadata, _join(path, name))
        elif f.default is MISSING and f.default_factory is MISSING:
            raise RequestError(f"{_join(path, name)} is missing")
    try:
        return cls(**values)
    except ValueError as error:  # a dataclass may check combinations of keys in __post_init__
        raise RequestError(f"{path or 'config'}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain data, in the order of its fields."""
    return asdict(config)


def flattened(given: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested data; lists and empty sections are leaves."""
    for key, value in given.items():
        if isinstance(value, Mapping) and value:
            yield from flattened({str(name): inner for name, inner in value.items()}, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def keys(cls: type, path: str = "") -> list[str]:
    """Every dotted key of a config class."""
    hints = get_type_hints(cls)
    found = []
    for f in fields(cls):
        inner = _join(path, f.name)
        found += keys(hints[f.name], inner) if is_dataclass(hints[f.name]) else [inner]
    return found


def _whole(key: str, value: Any) -> str:
    """The dotted key as typed: `logg` with only `every` in it was typed as logg.every."""
    while isinstance(value, Mapping) and len(value) == 1:
        ((inner, value),) = value.items()
        key = f"{key}.{inner}"
    return key


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _wrong(key: str, value: Any, must: str) -> RequestError:
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    return RequestError(f"{key}={shown}: must be {must}")


def _convert(value: Any, hint: Any, bounds: Mapping[str, Any], key: str) -> Any:
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("", "null", "none")):
            return None
        (inner,) = (h for h in get_args(hint) if h is not NoneType)
        return _convert(value, inner, bounds, key)
    if isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, Mapping):
            example = _join(key, fields(hint)[0].name)
            raise RequestError(f"{key}={value}: {key} is a group of keys, like {example}=...")
        return build(hint, value, key)
    if origin is list:
        (inner,) = get_args(hint)
        if inner is str and isinstance(value, str):
            # data.path=corpus.txt is a list of one; options outside of Hydra's grammar give [a,b] as a string
            value = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
        if not isinstance(value, list | tuple):
            raise _wrong(key, value, f"a list, like {key}={'[a,b]' if inner is str else '[64,64]'}")
        return [_convert(item, inner, bounds, f"{key}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise _wrong(key, value, f"names and values, like {key}.name=value")
        return dict(value)
    return _within(_SCALARS[hint](value, key, bounds), bounds, key)


def _bool(value: Any, key: str, bounds: Mapping[str, Any]) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise _wrong(key, value, "true or false")


def _int(value: Any, key: str, bounds: Mapping[str, Any]) -> int:
    if isinstance(value, str):
        try:
            return _held(int(value), key, INT_64, "an integer of 64 bits")  # exact; takes 1_000_000
        except ValueError:
            pass
    number = _number(value)
    if number is None or not number.is_integer():
        raise _wrong(key, value, "an integer, like 1000 or 1e6")
    return _held(value if isinstance(value, int) else int(number), key, INT_64, "an integer of 64 bits")


def _float(value: Any, key: str, bounds: Mapping[str, Any]) -> float:
    number = _number(value)
    if number is None:
        raise _wrong(key, value, "a finite number, like 0.5 or 3e-4")
    return _held(number, key, FLOAT_32, "a number of 32 bits, at most 3.4e38")


def _held(number: N, key: str, limit: float, kind: str) -> N:
    """The number, if arrays can hold it."""
    if not -limit <= number <= limit:
        raise _wrong(key, number, kind)
    return number


def _number(value: Any) -> float | None:
    """A value or string as a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if number == 0 and isinstance(value, str) and re.search("[1-9]", value.lower().partition("e")[0]):
        return None  # 1e-400 is not 0
    return number if math.isfinite(number) else None


def _str(value: Any, key: str, bounds: Mapping[str, Any]) -> str:
    if isinstance(value, bool) and "on" in bounds.get("choices", ()):
        return "on" if value else "off"  # YAML 1.1 reads an unquoted on / off as a boolean
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _wrong(key, value, "text")
    return value


_SCALARS: dict[Any, Any] = {bool: _bool, int: _int, float: _float, str: _str}


def _within(value: Any, bounds: Mapping[str, Any], key: str) -> Any:
    choices = bounds.get("choices") or ()
    if choices and value not in choices:
        near = did_you_mean(str(value), choices, f"{key}=")
        raise RequestError(f"{key}={value}: must be one of {', '.join(choices)}{near}")
    if bounds.get("pattern") and not re.fullmatch(bounds["pattern"], value):
        raise _wrong(key, value, bounds["help"])
    for name, (sign, holds) in _SIGNS.items():
        bound = bounds.get(name)
        if bound is not None and not holds(value, bound):
            raise _wrong(key, value, f"{sign} {bound}")
    return value


_SIGNS = {"gt": (">", operator.gt), "ge": (">=", operator.ge), "lt": ("<", operator.lt), "le": ("<=", operator.le)}
