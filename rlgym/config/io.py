"""Writes configs as complete, resolved YAML in the order of the dataclasses, and reads them back as typed configs. Read
as plain YAML, never through Hydra, so that a file can neither run code nor read variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

from rlgym.config.parser import build, keys, to_dict
from rlgym.config.registry import config_of, entry
from rlgym.config.schema import ROOTS, RootConfig
from rlgym.errors import RequestError

OWN_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w./-]*")
"""`module:Name`, or an environment's `module:Id`."""


def to_yaml(config: RootConfig) -> str:
    return str(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120))


VOUCHED: set[str] = set()
"""Trusted runs: those named by configs that were given or opened with trust=true."""


def vouch(data: Mapping[str, Any]) -> None:
    """Also trust the runs that a config names: its parent, its reward model, its opponents."""
    opponent = _section(_section(data, "env"), "self_play").get("opponent")
    terms = _section(data, "reward").get("terms")
    rewards = [_section(data, "reward"), *(terms if isinstance(terms, list) else [])]
    runs = [reward.get("run") for reward in rewards if isinstance(reward, Mapping)]
    opponents = str(_section(data, "agent").get("opponents", "")).split(",")
    words = (data.get("init_from"), opponent, *opponents, *runs)
    VOUCHED.update(word for word in words if isinstance(word, str) and word)


def check_trust(data: Mapping[str, Any], trust: bool) -> None:
    """RequestError where untrusted plain data names code to import. Every config is checked here after it was read or
    composed, before anything is imported."""
    for key, name in names_of_code(data):
        if not trust:
            raise RequestError(f"{key}={name} names code to import: add trust=true if you trust it")


def names_of_code(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, value) of everything in a config that names the user's own code, `module:Name`."""
    keys = {"env": "id"}
    for root in ROOTS.values():
        keys |= root.sections
    for group, key in keys.items():
        value = _section(data, group).get(key)
        if isinstance(value, str) and ":" in value:
            yield f"{group}.{key}", value
    for key, value in _texts(_section(data, "reward").get("terms"), "reward.terms"):
        if ":" in value and key.endswith(".name"):
            yield key, value
    for key, value in _texts(_section(data, "env").get("kwargs"), "env.kwargs"):
        if OWN_CODE.fullmatch(value):  # an environment may make another one by its id
            yield key, value


def _section(data: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    section = data.get(group)
    return section if isinstance(section, Mapping) else {}


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, string) of every string in plain data."""
    if isinstance(value, str):
        yield key, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in items:
        yield from _texts(part, f"{key}.{name}")


def root_of(data: Mapping[str, Any]) -> type[RootConfig]:
    """The root config of plain data: the one whose learner group it has."""
    for cls in ROOTS.values():
        if cls.learner_group in data:
            return cls
    wanted = " or ".join(cls.learner_group for cls in ROOTS.values())
    raise RequestError(f"{wanted} is missing: it says what learns")


def from_plain(data: Mapping[str, Any], trust: bool) -> Any:
    """Build a typed config from plain data, including its sections (agent, model, ...). `trust`: whether the data comes
    from the user or from a trusted folder. Without it only installed code is imported.
    """
    refuse_targets(data)
    check_trust(data, trust)
    root = root_of(data)
    sections: dict[str, Any] = {}
    known: list[str] = []
    for group, key in root.sections.items():
        section = data.get(group)
        if not isinstance(section, Mapping) or not isinstance(section.get(key), str):
            raise RequestError(f"{group}.{key} is missing: it says which {group} it is")
        knobs = config_class(group, section[key], key)
        sections[group] = build(knobs, section, group)
        known += keys(knobs, group)
    return build(root, {**data, **sections}, known=known)


def config_class(group: str, name: str, key: str = "name") -> type:
    """The config dataclass of `group=name`, which has a field `key` for the name."""
    found_entry = entry(group, name)
    try:
        found = config_of(found_entry)
    except RequestError as error:
        raise RequestError(f"{group}={name}: {error}") from error
    if not isinstance(found, type) or not is_dataclass(found) or key not in {f.name for f in fields(found)}:
        raise RequestError(f"{group}={name}: {found_entry.config} must be a dataclass with a field `{key}`")
    return found


def refuse_targets(data: Any, path: str = "") -> None:
    """Refuse `_target_`, by which Hydra configs call code, at any depth."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        full = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            raise RequestError(f"{full}={value}: refused, a config cannot name code to run")
        refuse_targets(value, full)
