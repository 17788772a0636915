"""Writes the result of a search as a file that `agent=... env=...` picks up: tuned/<agent>/<env>.yaml, in
`--config-dir` if given, in conf/ of a source checkout, or in the user's config folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rlgym.common.atomic_io import write_atomic
from rlgym.config.compose import compose
from rlgym.config.groups import config_folder, user_folder
from rlgym.config.parser import flattened, to_dict
from rlgym.errors import RequestError

CHECKOUT = Path(__file__).resolve().parents[2]
"""conf/ of a source checkout."""
NOT_TUNED = ("seed", "run.", "device", "compile", "threads", "display", "minutes", "updates", "schedule_steps")
"""Keys of a run that do not affect learning."""


def write_tuned(
    agent: str,
    env: str,
    words: Sequence[str],
    config_dir: str | None,
    overwrite: bool,
    comment: str,
    trust: bool = True,
) -> list[str]:
    """Write the changes of `words` to `agent`'s plain defaults on `env`; returns lines about the file and its use. An
    existing file is kept and the new one gets another name, unless `overwrite`. A file in the user's folder also takes
    precedence over a checkout's.
    """
    folder = target(config_dir)
    path = folder / agent / f"{env}.yaml"
    own = config_folder(config_dir)
    in_force = path if own is None else Path(own) / "tuned" / agent / f"{env}.yaml"
    shadowed = in_force.is_file() and in_force.resolve() != path.resolve()
    name = env
    if shadowed or (path.exists() and not overwrite):
        name = f"{env}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    written = folder / agent / f"{name}.yaml"
    replaced = written.exists()
    try:
        written.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(written, f"# @package _global_\n# {comment}\n{content(agent, env, words, config_dir, trust)}")
    except OSError as error:
        raise RequestError(f"{written}: cannot be written ({error.strerror}); --config-dir DIR names another") from None
    flag = "" if config_dir is None else f" --config-dir {config_dir}"
    if name != env:
        remedy = "" if shadowed else "; overwrite=true would have replaced it"
        use = f"agent={agent} env={env} tuned={agent}/{name}{flag}"
        return [f"written to {written}; {in_force if shadowed else path} stays in force{remedy}", f"use it: {use}"]
    return [
        f"{'replaced' if replaced else 'written to'} {written}",
        f"it is picked up by: agent={agent} env={env}{flag}",
    ]


def content(agent: str, env: str, words: Sequence[str], config_dir: str | None, trust: bool) -> str:
    """The YAML of every key in which the config of `words` differs from the agent's plain defaults. `trust`: see
    `compose`."""
    plain = dict(flattened(to_dict(compose([f"agent={agent}", f"env={env}", "tuned=off"], "train", config_dir, trust))))
    found = dict(flattened(to_dict(compose(list(words), "train", config_dir, trust))))
    nested: dict[str, Any] = {}
    for key, value in found.items():
        if value == plain.get(key, plain) or key.startswith(NOT_TUNED):
            continue
        *sections, last = key.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)


def target(config_dir: str | None) -> Path:
    """The `tuned` folder to write into."""
    if config_dir is not None:
        return Path(config_dir) / "tuned"
    if (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / "conf").is_dir():
        return CHECKOUT / "conf" / "tuned"
    return user_folder() / "tuned"
