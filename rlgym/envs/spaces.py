"""An observation space as a flat list of leaves: named arrays that a rollout stores and an encoder reads."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlgym.errors import RequestError

Array = NDArray[Any]
Obs = dict[str, Array]
"""Leaf name -> [envs, *leaf.shape]. A space that is not Dict or Tuple has the one leaf "obs"."""

IMAGE_SIDE = 36
"""Minimum height and width of an image (uint8 Box); the Nature CNN cannot process smaller ones."""

ONE_HOT_AT_MOST = 1_000
"""Maximum number of values for a one-hot encoding; larger choices get a learned embedding."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """One array of an observation.

    vector: a Box (or MultiBinary, dtype int8) of `shape`. image: a uint8 Box in the environment's own `layout`. onehot:
    integers [len(nvec)], each counting from 0 and below its entry of `nvec`; the encoder one-hots or embeds them.
    """

    name: str
    kind: Literal["vector", "image", "onehot"]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nvec: tuple[int, ...] = ()
    low: Array | None = None
    high: Array | None = None
    path: tuple[str | int, ...] = ()  # the keys from the whole observation down to this leaf
    given: tuple[int, ...] = ()  # its shape in the environment: Discrete () is stored as (1,)
    start: Array | None = None  # onehot: the space's start; None: 0
    one_hot_at_most: int = ONE_HOT_AT_MOST

    @property
    def looked_up(self) -> tuple[bool, ...]:
        """For choices: which entries of `nvec` are too large for one-hot vectors."""
        return tuple(n > self.one_hot_at_most for n in self.nvec)

    @property
    def pixels(self) -> tuple[float, float]:
        """For images: the bounds declared by its space, usually 0 and 255."""
        assert self.low is not None and self.high is not None
        return float(self.low.min()), float(self.high.max())

    @property
    def layout(self) -> str:
        """For images: the meaning of its axes, out of s(tack), h(eight), w(idth), c(hannels)."""
        if len(self.shape) == 2:
            return "hw"
        *front, height, width = self.shape
        if min(height, width) < IMAGE_SIDE:  # the last axis is too short to be a side
            return "hwc" if len(front) == 1 else "shwc"
        return "chw" if len(front) == 1 else "schw"  # stacked grey images [s, h, w] read as channels first


def leaves(space: spaces.Space[Any]) -> tuple[Leaf, ...]:
    """The non-empty leaves of an observation space. Nested names are joined with dots, Tuple entries are named by their
    index; a # is appended to a name that is taken ({"a.b": ..., "a": {"b": ...}})."""
    found: dict[str, Leaf] = {}
    for leaf in _leaves(space, ()):
        if math.prod(leaf.shape):
            name = unique(leaf.name, found)
            found[name] = replace(leaf, name=name)
    if not found:
        raise RequestError(f"observation space {space} holds no numbers: there is nothing to learn from")
    return tuple(found.values())


def unique(name: str, taken: Container[str]) -> str:
    """Append # to `name` until it is not taken."""
    while name in taken:
        name += "#"
    return name


def _leaves(space: spaces.Space[Any], path: tuple[str | int, ...]) -> Iterator[Leaf]:
    name = ".".join(str(key) for key in path) or "obs"
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _leaves(part, (*path, index))
    elif isinstance(space, spaces.Box):
        shape = space.shape or (1,)
        kind: Literal["vector", "image"] = "image" if _is_image(space) else "vector"
        low, high = space.low.reshape(shape), space.high.reshape(shape)
        yield Leaf(name, kind, shape, space.dtype, (), low, high, path, space.shape)
    elif isinstance(space, spaces.MultiBinary):
        zeros = np.zeros(space.shape, np.int8)
        yield Leaf(name, "vector", space.shape, zeros.dtype, (), zeros, zeros + np.int8(1), path, space.shape)
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        yield _onehot(name, space, path)
    else:
        raise RequestError(
            f"observation space {name}: {type(space).__name__} is not supported; it can be Box, Discrete, "
            "MultiDiscrete, MultiBinary, or Tuple or Dict of these"
        )


def _is_image(space: spaces.Box) -> bool:
    sides = sorted(space.shape)[-2:]
    return space.dtype == np.uint8 and 2 <= len(space.shape) <= 4 and sides[0] >= IMAGE_SIDE


def _onehot(name: str, space: spaces.Discrete | spaces.MultiDiscrete, path: tuple[str | int, ...]) -> Leaf:
    sizes = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec).astype(np.int64)
    start = np.ravel(space.start).astype(np.int64)
    low = np.zeros_like(sizes)
    nvec = tuple(int(n) for n in sizes)
    given, offset = space.shape or (), start if start.any() else None
    return Leaf(name, "onehot", sizes.shape, np.dtype(np.int64), nvec, low, sizes - 1, path, given, offset)


def part(observation: Any, path: tuple[str | int, ...]) -> Any:
    """The entry at `path` inside a Dict or Tuple observation."""
    for key in path:
        observation = observation[key]
    return observation


def empty(of: tuple[Leaf, ...], num_envs: int) -> Obs:
    return {leaf.name: np.zeros((num_envs, *leaf.shape), leaf.dtype) for leaf in of}


def single(of: tuple[Leaf, ...], observation: Any) -> Obs:
    """Convert one Gymnasium observation to leaves with a batch of one: `[1, *leaf.shape]`."""
    obs = {}
    for leaf in of:
        value = np.asarray(part(observation, leaf.path), leaf.dtype).reshape(1, *leaf.shape)
        obs[leaf.name] = value if leaf.start is None else value - leaf.start
    return obs


def flatten(of: tuple[Leaf, ...], observation: Any) -> Obs:
    """Convert a vector environment's batched observation to leaves; views where possible."""
    obs = {}
    for leaf in of:
        batch = np.asarray(part(observation, leaf.path))
        batch = batch.reshape(len(batch), *leaf.shape).astype(leaf.dtype, copy=False)
        obs[leaf.name] = batch if leaf.start is None else batch - leaf.start
    return obs
