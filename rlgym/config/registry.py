"""The registry of choices: built in, installed as an entry point, or `module:Class`. It holds names only; code is
imported when used.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlgym.config.built_in import BUILT_IN, Entry
from rlgym.errors import RequestError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OPEN = {"agent": "rlgym.agents", "objective": "rlgym.objectives", "reward": "rlgym.rewards"}
"""Groups that take a user's own code, as module:Class or as an entry point of this group."""
OWN_CONFIG = {"reward": "rlgym.ssl.finetune.config:OwnReward"}
"""Config of the user's own code in groups where it is a function, which has no Config."""


@cache
def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """The installed packages' entry points of a group; read once per process."""
    if not _any_entry_points():
        return ()
    from importlib import metadata

    return tuple(metadata.entry_points(group=group))


@cache
def _any_entry_points() -> bool:
    """Whether an installed package may have an entry point of this program. Looked up in the files themselves, since
    importing importlib.metadata takes as long as the rest of `--help`."""
    for folder in map(os.path.abspath, sys.path):
        if os.path.isfile(folder):  # a zip
            return True
        with suppress(OSError), os.scandir(folder) as found:
            for entry in found:
                if entry.name.endswith((".dist-info", ".egg-info")):
                    with suppress(OSError), open(f"{entry.path}/entry_points.txt", "rb") as file:
                        if b"[rlgym." in file.read():
                            return True
    return False


def entries(group: str) -> dict[str, Entry]:
    """All named entries of a group; built-in ones cannot be replaced."""
    installed = {e.name: _own(group, e.name, e.value) for e in entry_points(OPEN[group])} if group in OPEN else {}
    return installed | {entry.name: entry for entry in BUILT_IN[group]}


def entry(group: str, name: str) -> Entry:
    if ":" in name and group in OPEN:
        return _own(group, name, name)
    known = entries(group)
    if name not in known:
        from rlgym.common.suggest import did_you_mean

        own = ", or module:Class" if group in OPEN else ""
        near = did_you_mean(name, known, f"{group}=") or f": one of {', '.join(known)}{own}"
        raise RequestError(f"{group}={name} not found{near}")
    return known[name]


def _own(group: str, name: str, value: str) -> Entry:
    return Entry(name, OWN_CONFIG.get(group, f"{value}.Config"), value, f"from {value}")


def config_of(found: Entry) -> Any:
    """The config dataclass of an entry. A user's class without a Config takes that of the built-in class it inherits
    from (not of Stable-Baselines3's algorithms, which share one class)."""
    if found.config == f"{found.target}.Config" and not hasattr(own := resolve(found.target), "Config"):
        built_in = {e.target: e.config for group in OPEN for e in reversed(BUILT_IN[group]) if "/" not in e.name}
        for base in getattr(own, "__mro__", ()):
            if (name := f"{base.__module__}:{base.__qualname__}") in built_in:
                return resolve(built_in[name])
    return resolve(found.config)


def learner_class(config: Any) -> Any:
    """The learner class of a root config."""
    return resolve(config.learner or entry(config.learner_group, config.learner_name).target)


def resolve(name: str) -> Any:
    """Import and return `module:Name` (or `module:Name.attribute`)."""
    module, _, path = name.partition(":")
    if not module or not path:
        raise RequestError(f"{name}: must be module:Name")
    found: Any = import_own(module)
    for part in path.split("."):
        if not hasattr(found, part):
            from rlgym.common.suggest import did_you_mean

            raise RequestError(f"no {part} in {getattr(found, '__name__', module)}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    return found


def import_own(module: str) -> ModuleType:
    """Import a user's module; any exception it raises becomes a RequestError."""
    see_current_folder()
    try:
        return import_module(module)
    except Exception as error:
        raise RequestError(f"cannot import {module}: {type(error).__name__}: {error}") from error


def see_current_folder() -> None:
    """Add the current folder to the path, as `python -m` does, so that the console script finds `module:Name` there.
    Added last, so that no file there shadows an installed module.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
