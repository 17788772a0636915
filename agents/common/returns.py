"""Returns and advantages. Written with operators only, so that the same code takes NumPy arrays and torch tensors."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    out: Array,
    gamma: float,
    lam: float,
) -> Array:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv:1506.02438, equations 11-12, 16).

    All arguments are `[time, envs]`. `next_value[t]` is V of the state that step t led to: V(final_obs) where an
    episode was cut off, never V of the next episode's first state. Two masks: a terminated state has value 0, which
    removes the bootstrap from delta; any end of an episode, truncation included, stops the recursion, since the next
    step belongs to another episode.

        delta[t] = reward[t] + gamma * (1 - terminated[t]) * next_value[t] - value[t]
        advantage[t] = delta[t] + gamma * lam * (1 - done[t]) * advantage[t + 1]

    `terminated` and `done` are 0 or 1 in `reward`'s type. Writes into `out` and returns it.
    """
    delta = reward + gamma * (1 - terminated) * next_value - value
    carry = gamma * lam * (1 - done)
    out[-1] = delta[-1]
    for t in range(len(reward) - 2, -1, -1):
        out[t] = delta[t] + carry[t] * out[t + 1]
    return out
