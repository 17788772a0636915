"""Agents by name: built in, installed as entry points of the group `rlgym.agents`, or `module:Class`.

The registry knows only names; what they name is imported when it is used.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from rlgym.errors import RequestError
from rlgym.nearest import did_you_mean


@dataclass(frozen=True)
class AgentEntry:
    name: str
    config: str
    """`module:Class` of the dataclass of its knobs, which has a field `name`."""
    learner: str
    """`module:Class` of the learner."""
    summary: str


BUILT_IN = (
    AgentEntry(
        "ppo",
        "rlgym.agents.config:PPOConfig",
        "rlgym.agents.ppo:PPO",
        "Proximal Policy Optimization: on-policy, any action space",
    ),
)


def agents() -> dict[str, AgentEntry]:
    """Every agent with a name of its own; built-in ones cannot be replaced."""
    installed = {e.name: _own(e.name, e.value) for e in entry_points(group="rlgym.agents")}
    return installed | {entry.name: entry for entry in BUILT_IN}


def agent(name: str) -> AgentEntry:
    if ":" in name:
        return _own(name, name)
    known = agents()
    if name not in known:
        near = did_you_mean(name, known, "agent=") or f": one of {', '.join(known)}, or module:Class"
        raise RequestError(f"agent={name} not found{near}")
    return known[name]


def _own(name: str, value: str) -> AgentEntry:
    return AgentEntry(name, f"{value}.Config", value, f"from {value}")


def resolve(name: str) -> Any:
    """What `module:Name` (or `module:Name.attribute`) names."""
    module, _, path = name.partition(":")
    if not module or not path:
        raise RequestError(f"{name}: must be module:Name")
    see_current_folder()
    try:
        found: Any = import_module(module)
    except Exception as error:  # someone else's module may raise anything while it is imported
        raise RequestError(f"cannot import {module}: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise RequestError(f"no {part} in {getattr(found, '__name__', module)}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    return found


def see_current_folder() -> None:
    """`module:Name` may lie in the current folder under the console script too, as it does under `python -m`.

    Last on the path, so that no file there can stand in for an installed module.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
