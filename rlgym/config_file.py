"""A run folder's config.yaml: complete, resolved, in the order of the dataclasses; and back to a typed config.

Read as plain YAML, never through Hydra: a file from elsewhere can name no code to run and no variable to look up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from rlgym.config import ROOTS, RootConfig
from rlgym.errors import RequestError
from rlgym.files import write_atomic
from rlgym.registry import entry, resolve
from rlgym.typed import build, keys, to_dict


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
    try:
        refuse_targets(data)
        for group, name in {**root_of(data).sections, "env": "id"}.items():
            section = data.get(group)
            value = section.get(name) if isinstance(section, dict) else None
            if not trust and ":" in str(value):
                raise RequestError(f"{group}.{name}={value} names code to import: add trust=true if you trust it")
        for term in _terms(data):
            if not trust and ":" in str(term.get("name")):
                raise RequestError(f"reward.terms: {term['name']} names code to import: add trust=true if you trust it")
        return from_plain(data)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _terms(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What reward=sum adds up."""
    reward = data.get("reward")
    terms = reward.get("terms") if isinstance(reward, Mapping) else None
    return [term for term in terms if isinstance(term, Mapping)] if isinstance(terms, list) else []


def root_of_run(folder: Path) -> str:
    """The command that made the run in `folder`."""
    return root_of(_read(folder / "config.yaml")).root


def _read(path: Path) -> dict[str, Any]:
    try:
        data = _plain_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RequestError(f"{path} is not a config")
    return data


def _plain_yaml(text: str) -> Any:
    """Without aliases: a few lines of them can spell out a structure that fills the memory, or that never ends."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("it holds aliases")
    return yaml.safe_load(text)


def root_of(data: Mapping[str, Any]) -> type[RootConfig]:
    """Which root config plain data is of: the one whose learner group it has."""
    for cls in ROOTS.values():
        if cls.learner_group in data:
            return cls
    wanted = " or ".join(cls.learner_group for cls in ROOTS.values())
    raise RequestError(f"{wanted} is missing: it says what learns")


def from_plain(data: Mapping[str, Any]) -> Any:
    """The typed config that plain data says, the knobs of its sections (agent, model, ...) included."""
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
        found = resolve(found_entry.config)
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
