from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from rlgym.envs.spaces import flatten, leaves
from rlgym.errors import RequestError


def test_leaves_of_a_nested_space_hold_its_numbers() -> None:
    choices = spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]))
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (40, 48, 3), np.uint8),
            "grid": spaces.Box(0, 10, (7, 7, 3), np.uint8),  # too small for convolutions: a vector
            "inner": spaces.Tuple(
                (
                    spaces.Discrete(4, start=-2),
                    choices,
                    spaces.MultiBinary((2, 3)),
                )
            ),
            "speed": spaces.Box(-1, 1, (), np.float64),
        }
    )
    found = {leaf.name: leaf for leaf in leaves(space)}
    assert {name: (leaf.kind, leaf.shape, leaf.nvec) for name, leaf in found.items()} == {
        "camera": ("image", (40, 48, 3), ()),
        "grid": ("vector", (7, 7, 3), ()),
        "inner.0": ("onehot", (1,), (4,)),
        "inner.1": ("onehot", (4,), (2, 3, 4, 5)),
        "inner.2": ("vector", (2, 3), ()),
        "speed": ("vector", (1,), ()),
    }
    batched = batch_space(space, 6)
    batched.seed(0)
    batch = batched.sample()
    obs = flatten(leaves(space), batch)
    for name, leaf in found.items():
        assert obs[name].shape == (6, *leaf.shape) and obs[name].dtype == leaf.dtype
        assert (obs[name] >= leaf.low).all() and (obs[name] <= leaf.high).all()
    assert np.shares_memory(obs["camera"], batch["camera"])  # a view, not a copy
    assert (obs["inner.0"][:, 0] == batch["inner"][0] + 2).all()
    assert (obs["inner.1"] == batch["inner"][1].reshape(6, 4)).all()


def test_names_are_unique_and_what_holds_no_numbers_is_left_out() -> None:
    one, nothing = spaces.Discrete(2), spaces.Box(-1, 1, (0, 3))
    space = spaces.Dict({"a.b": one, "a": spaces.Dict({"b": one, "none": nothing}), "": one, "obs": one, "1": one})
    found = {leaf.name: leaf.path for leaf in leaves(space)}
    assert sorted(found.values()) == [("",), ("1",), ("a", "b"), ("a.b",), ("obs",)]
    assert sorted(found) == ["1", "a.b", "a.b#", "obs", "obs#"]


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((84, 84), "hw"), ((4, 84, 84), "chw"), ((84, 84, 3), "hwc"), ((4, 96, 96, 3), "shwc"), ((4, 3, 96, 96), "schw")],
)
def test_layout_of_images(shape: tuple[int, ...], layout: str) -> None:
    (leaf,) = leaves(spaces.Box(0, 255, shape, np.uint8))
    assert leaf.kind == "image" and leaf.layout == layout


def test_other_spaces_are_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"a\.b: Text is not supported"):
        leaves(spaces.Dict({"a": spaces.Dict({"b": spaces.Text(4)})}))
