"""A run folder's config.yaml: complete, resolved, in the order of the dataclasses; and back to a typed config.

Read as plain YAML, never through Hydra: a file from elsewhere can name no code to run and no variable to look up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from rlgym.config import ROOTS, RootConfig
from rlgym.errors import RequestError
from rlgym.files import read_yaml, write_atomic
from rlgym.registry import config_of, entry
from rlgym.typed import build, keys, to_dict

OWN_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w./-]*")
"""`module:Name`, or an environment's `module:Id`."""


def save_config(config: RootConfig, path: Path) -> None:
    write_atomic(path, to_yaml(config))


def to_yaml(config: RootConfig) -> str:
    return str(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120))


def load_config(path: Path, trust: bool = False) -> Any:
    """The config (TrainConfig, PretrainConfig, ...) of a run folder, or of its config.yaml.

    Code that it names by `module:` is imported only with `trust`.
    """
    path = path / "config.yaml" if path.is_dir() else path
    data = _read(path)
    trust = trust or path.parent.resolve() in _vouched
    try:
        config = from_plain(data, trust)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error
    if trust:
        vouch(data)
    return config


_vouched: set[Path] = set()
"""Folders of runs that a person vouches for: named by a config that was given or opened with trust=true."""


def vouch(data: Mapping[str, Any]) -> None:
    """Let `load_config` trust the runs that a config names: its parent, its reward model, its opponents."""
    from rlgym.run import find_run

    opponent = _section(_section(data, "env"), "self_play").get("opponent")
    terms = _section(data, "reward").get("terms")
    rewards = [_section(data, "reward"), *(terms if isinstance(terms, list) else [])]
    runs = [reward.get("run") for reward in rewards if isinstance(reward, Mapping)]
    opponents = str(_section(data, "agent").get("opponents", "")).split(",")
    for word in (data.get("init_from"), opponent, *opponents, *runs):
        if isinstance(word, str) and word:
            with suppress(RequestError, OSError):  # not a run: the code that opens it reports that
                _vouched.add(find_run(word).dir.resolve())


def check_trust(data: Mapping[str, Any], trust: bool) -> None:
    """RequestError where plain data names code to import and nobody vouches for it. Every config passes here, after it
    was read or composed and before anything that it names is imported."""
    for key, name in names_of_code(data):
        if not trust:
            raise RequestError(f"{key}={name} names code to import: add trust=true if you trust it")


def names_of_code(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, value) of everything in a config that stands for code of a person's own, `module:Name`."""
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
    """(dotted key, text) of every text in plain data."""
    if isinstance(value, str):
        yield key, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in items:
        yield from _texts(part, f"{key}.{name}")


def root_of_run(folder: Path) -> str:
    """The command that made the run in `folder`."""
    return root_of(_read(folder / "config.yaml")).root


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    except ValueError as error:
        raise RequestError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RequestError(f"{path} is not a config")
    return data


def root_of(data: Mapping[str, Any]) -> type[RootConfig]:
    """Which root config plain data is of: the one whose learner group it has."""
    for cls in ROOTS.values():
        if cls.learner_group in data:
            return cls
    wanted = " or ".join(cls.learner_group for cls in ROOTS.values())
    raise RequestError(f"{wanted} is missing: it says what learns")


def from_plain(data: Mapping[str, Any], trust: bool) -> Any:
    """The typed config that plain data says, the knobs of its sections (agent, model, ...) included.

    `trust`: whether a person wrote the data, or vouches for the folder that it comes from. Without it nothing is
    imported but what is installed.
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
    """The dataclass of the knobs of `group=name`, which has a field `key` for the name."""
    found_entry = entry(group, name)
    try:
        found = config_of(found_entry)
    except RequestError as error:
        raise RequestError(f"{group}={name}: {error}") from error
    if not isinstance(found, type) or not is_dataclass(found) or key not in {f.name for f in fields(found)}:
        raise RequestError(f"{group}={name}: {found_entry.config} must be a dataclass with a field `{key}`")
    return found


def refuse_targets(data: Any, path: str = "") -> None:
    """`_target_` is how Hydra configs call code; no config here may hold one, at any depth."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        full = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            raise RequestError(f"{full}={value}: refused, a config cannot name code to run")
        refuse_targets(value, full)
