"""The groups of `conf/` and their choices, read as files: help needs no Hydra for it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from rlgym.errors import RequestError

GROUPS = {"train": ("agent", "env", "tuned", "experiment")}
"""Root config -> its groups."""

SUMMARIES = {
    "agent": "algorithm and networks; agent=module:Class takes your own",
    "env": "any Gymnasium id (env=ALE/Pong-v5) or your own (env=module:MyEnv-v0); these have a few words here",
    "tuned": "values for an agent on an env, chosen by themselves; tuned=off gives plain defaults",
    "experiment": "whole recipes, agent and env included",
}


def choices(group: str, config_dir: str | None = None) -> dict[str, str]:
    """Choice -> its summary, the file's first comment line; a user's own come after the built-in ones."""
    found: dict[str, str] = {}
    for root in roots(config_dir):
        folder = root / group
        if folder.is_dir():
            for name, file in sorted(_yaml(folder, "")):
                found.setdefault(name, summary(file.read_text(encoding="utf-8")))
    return found


def roots(config_dir: str | None = None) -> list[Traversable]:
    """The built-in config folder and the user's."""
    own: list[Traversable] = []
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise RequestError(f"--config-dir {config_dir}: no such folder")
        own.append(Path(config_dir))
    return [files("rlgym.conf"), *own]


def summary(text: str) -> str:
    """The first comment line that is not Hydra's `# @package`."""
    comments = (line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#"))
    return next((line for line in comments if line and not line.startswith("@package")), "")


def _yaml(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _yaml(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml"), entry
