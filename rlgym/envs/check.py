"""Checks of steps against the declared spaces: one batched comparison a step, the message built only on failure.

Fatal: NaN and infinities, and values outside of a Discrete space. A number beyond a Box's bounds is reported once
(`env.check`), and training continues: LunarLander-v3 leaves its declared bounds in most episodes of a bad policy
(height up to 19 times, angle up to 2.4 times the bound) and works as intended.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlgym.envs.spaces import Array, Leaf, Obs
from rlgym.errors import TrainingError

TOLERANCE = 1e-4  # relative to the bound (absolute below 1): rounding between precisions is no violation


class Checker:
    def __init__(self, id: str, leaves: tuple[Leaf, ...], *, check: bool, first: int = 0) -> None:
        """`first`: number of the environment in the first row."""
        self.id = id
        self.said: dict[str, str] = {}
        """Leaf that left its bounds -> the notice."""
        self.notices: list[str] = []
        """Notices not yet shown."""
        self._leaves = {leaf.name: leaf for leaf in leaves}
        self._first = first
        self._limits: dict[str, tuple[Array, Array]] = {}
        for leaf in leaves:
            limits = _limits(leaf, bounded=check or leaf.kind == "onehot")
            if limits is not None:
                self._limits[leaf.name] = limits

    def obs(self, obs: Obs, what: str = "observation") -> None:
        """Check observations, each leaf [rows, ...]."""
        for name, (low, high) in list(self._limits.items()):  # a violated bound is dropped
            batch = obs[name]
            within = batch >= low  # false for NaN, too
            within &= batch <= high
            if not within.all():
                self._check_batch(name, batch, within, what)

    def rewards(self, rewards: Array) -> None:
        if not math.isfinite(rewards.dot(rewards)) and not np.isfinite(rewards).all():
            i = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise TrainingError(f"{self.id}: environment {self._first + i} returned the reward {rewards[i]}")

    def mask(self, mask: Array, sizes: tuple[int, ...]) -> None:
        """Check mask [envs, sum(sizes)]: every part must allow an action."""
        first = 0
        for size in sizes:
            if not mask[:, first : first + size].any(axis=1).all():
                raise TrainingError(f"{self.id}: info['action_mask'] allows no action")
            first += size

    def _check_batch(self, name: str, batch: Array, within: Array, what: str) -> None:
        leaf = self._leaves[name]
        row, *at = (int(index) for index in np.argwhere(~within)[0])
        value = batch[(row, *at)]
        where = f"{what} {name}{at} of environment {self._first + row} is {value}"
        if not np.isfinite(value):
            raise TrainingError(f"{self.id}: {where}")
        if leaf.kind == "onehot":
            raise TrainingError(f"{self.id}: {where} (counted from 0), its space has {leaf.nvec[at[0]]} values")
        assert leaf.low is not None and leaf.high is not None
        below = bool(value < leaf.low[tuple(at)])
        bound = f"{'below' if below else 'above'} its declared bound {(leaf.low if below else leaf.high)[tuple(at)]}"
        self.said[name] = f"{self.id}: {where}, {bound}; said once, training goes on"
        self.notices.append(self.said[name])
        del self._limits[name]
        if (finite := _limits(leaf, bounded=False)) is not None:
            self._limits[name] = finite
            self.obs({**self._as_is(), name: batch}, what)

    def _as_is(self) -> Obs:
        """Limits for the quick check of each leaf."""
        return {name: low[None] for name, (low, _) in self._limits.items()}


def _limits(leaf: Leaf, *, bounded: bool) -> tuple[Array, Array] | None:
    """Inclusive bounds of a leaf; None where its dtype already implies them."""
    assert leaf.low is not None and leaf.high is not None
    if leaf.dtype.kind == "f":
        finite = np.finfo(leaf.dtype)
        low, high = np.full(leaf.shape, finite.min, leaf.dtype), np.full(leaf.shape, finite.max, leaf.dtype)
        if bounded:
            with np.errstate(over="ignore", invalid="ignore"):
                low = np.maximum(low, leaf.low - TOLERANCE * np.maximum(1, np.abs(leaf.low)), dtype=leaf.dtype)
                high = np.minimum(high, leaf.high + TOLERANCE * np.maximum(1, np.abs(leaf.high)), dtype=leaf.dtype)
        return low, high
    if not bounded or leaf.dtype.kind == "b":
        return None
    whole: Any = np.iinfo(leaf.dtype)
    full = bool((leaf.low == whole.min).all() and (leaf.high == whole.max).all())
    return None if full else (leaf.low, leaf.high)
