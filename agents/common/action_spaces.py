"""Which agents act in which action spaces, and the error for a space that an agent does not support."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rlgym.errors import RequestError


def agents_for(space: spaces.Space[Any]) -> tuple[str, ...]:
    """Names of the agents that act in `space`, possibly none."""
    if isinstance(space, spaces.Discrete):
        return "ppo", "a2c", "reinforce", "dqn", "rainbow", "pqn"
    if isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating):
        return ()
    if isinstance(space, spaces.Box) and space.is_bounded():
        return "ppo", "a2c", "reinforce", "sac", "td3"
    several = isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary)
    return ("ppo", "a2c", "reinforce") if several else ()


def refused(agent: str, why: str, id: str, space: spaces.Space[Any]) -> RequestError:
    """The error for an `agent` that does not act in env=`id`, with the reason `why` and agents that would do."""
    *others, last = agents_for(space) or ("",)
    remedy = f"agent={', '.join(others)} or {last} would do"
    if not last:
        remedy = "wrap the environment so that its actions are Discrete, MultiDiscrete, MultiBinary or a Box of floats"
    return RequestError(f"agent={agent} {why}, and env={id} takes {space}; {remedy}")
