"""The groups of a config and their choices, from the registry and the files of `conf/`; works without Hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rlgym import conf
from rlgym.config.built_in import BUILT_IN
from rlgym.config.registry import entries
from rlgym.errors import RequestError

CONF = Path(conf.__path__[0])
"""The built-in config folder."""

GROUPS = {
    "train": ("agent", "env", "tuned", "experiment"),
    "pretrain": ("objective", "model", "data", "tokenizer", "optimizer", "experiment"),
    "finetune": ("method", "data", "reward", "optimizer", "experiment"),
}
"""Root config -> its groups."""

SET_BY = {
    "env.id": "env=ID",
    "agent.name": "agent=NAME",
    "objective.name": "objective=NAME",
    "model.architecture": "model=NAME",
    "method.name": "method=NAME",
    "reward.name": "reward=NAME",
    "data.name": "data=NAME",
    "tokenizer.name": "tokenizer=NAME",
    "optimizer.name": "optimizer=NAME",
}
"""Keys that a group's choice sets; setting them directly would keep another choice's values."""

SUMMARIES = {
    "agent": "algorithm and networks; agent=module:Class takes your own",
    "env": "any Gymnasium id (env=ALE/Pong-v5) or your own (env=module:MyEnv-v0); these have a few words here",
    "tuned": "values for an agent on an env, chosen by themselves; tuned=off gives plain defaults",
    "objective": "what is predicted; objective=module:Class takes your own",
    "model": "architecture and size; model.depth=N makes any size of an architecture",
    "method": "what the model is adapted by: labels, demonstrations, preferences or reward",
    "reward": "what a rewarded method maximises; reward=module:function takes your own",
    "data": "the corpus, or the examples",
    "tokenizer": "how text becomes tokens",
    "optimizer": "how the weights move",
    "experiment": "whole recipes, with all that they choose",
}


def choices(root: str, group: str, config_dir: str | None = None) -> dict[str, str]:
    """Choice -> summary: registry entries, then files (their first comment line); the user's own come last, or replace
    others."""
    found = {name: known.summary for name, known in entries(group).items()} if group in BUILT_IN else {}
    for tree in reversed(roots(config_dir)):
        folder = tree / group
        if folder.is_dir():
            for name, file in sorted(_yaml(folder, "")):
                text = file.read_bytes().decode("utf-8-sig", errors="replace")
                if group != "experiment" or set(re.findall(r"override /(\w+):", text)) <= set(GROUPS[root]):
                    found[name] = summary(text)
    return found


def roots(config_dir: str | None = None) -> list[Path]:
    """The config folders in order of precedence: the user's, then the built-in one."""
    own = config_folder(config_dir)
    if own is None:
        return [CONF]
    if not os.path.isdir(own):
        raise RequestError(f"--config-dir {own}: no such folder")
    return [Path(own), CONF]


def config_folder(config_dir: str | None) -> str | None:
    """`--config-dir`, else the user's folder if it exists."""
    if config_dir is not None:
        return config_dir
    own = user_folder()
    return str(own) if own.is_dir() else None


def user_folder() -> Path:
    """~/.config/rlgym or the system's equivalent; `sweep` of an installed package writes tuned/ there."""
    place = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return Path(place or os.path.expanduser("~/.config")) / "rlgym"


def summary(text: str) -> str:
    """The first comment line that is not Hydra's `# @package`."""
    comments = (line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#"))
    return next((line for line in comments if line and not line.startswith("@package")), "")


def _yaml(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _yaml(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml"), entry
