"""The arrays that environments write their steps into; worker processes share them with the learner's process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlgym.envs.spaces import Array, Leaf, Obs

Allocate = Callable[[tuple[int, ...], "np.dtype[Any]"], Array]


@dataclass
class Buffers:
    obs: Obs
    final: Obs
    reward: Array
    terminated: Array
    truncated: Array
    mask: Array

    def lanes(self, first: int, last: int) -> Buffers:
        """Views of environments first to last - 1."""
        part = slice(first, last)
        return Buffers(
            {name: array[part] for name, array in self.obs.items()},
            {name: array[part] for name, array in self.final.items()},
            self.reward[part],
            self.terminated[part],
            self.truncated[part],
            self.mask[part],
        )


def allocate(leaves: tuple[Leaf, ...], num_envs: int, mask_size: int, zeros: Allocate = np.zeros) -> Buffers:
    def arrays() -> Obs:
        return {leaf.name: zeros((num_envs, *leaf.shape), leaf.dtype) for leaf in leaves}

    bools = np.dtype(bool)
    ends = zeros((num_envs,), bools), zeros((num_envs,), bools)
    return Buffers(arrays(), arrays(), zeros((num_envs,), np.dtype(float)), *ends, zeros((num_envs, mask_size), bools))
