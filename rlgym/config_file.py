"""A run folder's config.yaml: complete, resolved, in the order of the dataclasses; and back to a typed config.

Read as plain YAML, never through Hydra: a file from elsewhere can name no code to run and no variable to look up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from rlgym.config import TrainConfig
from rlgym.errors import RequestError
from rlgym.files import write_atomic
from rlgym.registry import agent, resolve
from rlgym.typed import build, keys, to_dict


def save_config(config: TrainConfig, path: Path) -> None:
    write_atomic(path, to_yaml(config))


def to_yaml(config: TrainConfig) -> str:
    return str(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120))


def load_config(path: Path, trust: bool = False) -> TrainConfig:
    """The config of a run folder, or of its config.yaml. Code named by `module:` is imported only with `trust`."""
    path = path / "config.yaml" if path.is_dir() else path
    try:
        data = _plain_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RequestError(f"{path} is not a config")
    try:
        refuse_targets(data)
        for group, name in (("agent", "name"), ("env", "id")):
            section = data.get(group)
            value = section.get(name) if isinstance(section, dict) else None
            if not trust and ":" in str(value):
                raise RequestError(f"{group}.{name}={value} names code to import: add trust=true if you trust it")
        return from_plain(data)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _plain_yaml(text: str) -> Any:
    """Without aliases: a few lines of them can spell out a structure that fills the memory, or that never ends."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("it holds aliases")
    return yaml.safe_load(text)


def from_plain(data: Mapping[str, Any]) -> TrainConfig:
    """The typed config that plain data says, its agent's knobs included."""
    section = data.get("agent")
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise RequestError("agent.name is missing: it says which agent learns")
    knobs = config_class(section["name"])
    return build(TrainConfig, {**data, "agent": build(knobs, section, "agent")}, known=keys(knobs, "agent"))


def config_class(name: str) -> type:
    """The dataclass of an agent's knobs."""
    entry = agent(name)
    try:
        found = resolve(entry.config)
    except RequestError as error:
        raise RequestError(f"agent={name}: {error}") from error
    if not isinstance(found, type) or not is_dataclass(found) or "name" not in {f.name for f in fields(found)}:
        raise RequestError(f"agent={name}: {entry.config} must be a dataclass with a field `name`")
    return found


def refuse_targets(data: Any, path: str = "") -> None:
    """`_target_` is how Hydra configs call code; no config here may hold one, at any depth."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        full = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            raise RequestError(f"{full}={value}: refused, a config cannot name code to run")
        refuse_targets(value, full)
