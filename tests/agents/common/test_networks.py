"""Encoders of observations: images by the bounds of their space, large choices looked up, names of any kind."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlgym.agents.common.networks import Encoder, NatureCNN, Tables, module_names
from rlgym.agents.common.policy_numpy import NumpyEncoder
from rlgym.agents.off_policy.continuous import Continuous
from rlgym.agents.ppo import PPO
from rlgym.agents.sb3.env import View
from rlgym.envs.spaces import leaves
from rlgym.errors import RequestError
from tests.agents import levers, q_worlds, worlds

SIDE = 36


def image(low: int, high: int) -> spaces.Box:
    return spaces.Box(low, high, (SIDE, SIDE, 2), np.uint8)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (0, 7), (10, 14), (3, 3)])
def test_images_are_scaled_by_the_bounds_of_their_space(low: int, high: int) -> None:
    cnn = NatureCNN(leaves(image(low, high))[0])
    x = torch.randint(low, high + 1, (5, SIDE, SIDE, 2), dtype=torch.uint8)
    planes = x.movedim(-1, 1).float()
    scaled = planes / 255.0 if high == 255 else (planes - low) / max(1, high - low)
    with torch.no_grad():
        assert torch.equal(cnn(x), cnn.linear(cnn.convolutions(scaled)).relu())

    view = View(leaves(image(low, high)), spaces.Discrete(2))  # Stable-Baselines3 divides by 255 itself
    spread = view.obs({"obs": x.numpy()})
    assert isinstance(spread, np.ndarray) and spread.dtype == np.uint8
    np.testing.assert_allclose(spread / 255, scaled.numpy(), atol=0.5 / 255)


def test_numbers_that_are_no_images_stay_as_they_are_and_int8_can_be_normalised() -> None:
    """Of integers, bits and booleans too; running statistics scale what is not only bits."""
    found: dict[str, gym.Space[Any]] = {
        "int8": spaces.Box(-3, 3, (SIDE, SIDE), np.int8),
        "uint16": spaces.Box(0, 60_000, (2,), np.uint16),
        "bool": spaces.Box(0, 1, (2,), np.dtype(bool)),
        "bits": spaces.MultiBinary(3),
    }
    space = spaces.Dict(found)
    obs = {name: torch.from_numpy(part.sample()[None].astype(np.int64)) for name, part in found.items()}
    expected = torch.cat([obs[name].flatten(1).float() for name in space], 1)
    assert torch.equal(Encoder(leaves(space))(obs), expected)
    assert sorted(Encoder(leaves(space), normalize=True).norms) == ["bool", "int8", "uint16"]


def test_names_that_modules_have_themselves_and_names_alike() -> None:
    box = spaces.Box(-1, 1, (2,), np.float32)
    keys = ("type", "values", "training", "forward", "a.b", "a/b", "_modules")
    space = spaces.Dict({**dict.fromkeys(keys, box), "a": spaces.Dict({"b": box})})
    names = module_names(leaves(space))
    assert len(set(names.values())) == len(keys) + 1 and all("." not in name for name in names.values())
    encoder = Encoder(leaves(space), normalize=True)
    obs = {leaf.name: torch.full((3, 2), float(i)) for i, leaf in enumerate(leaves(space))}
    encoder.observe(obs)
    assert encoder(obs).abs().max() == 0, "each has statistics of its own: all is at its mean"
    # names of runs before stay
    assert module_names(leaves(spaces.Dict({"x": box, "y": spaces.Tuple((box,))}))) == {"x": "x", "y.0": "y/0"}


# ---- large choices

LARGE = spaces.Dict({"n": spaces.Discrete(1_001, start=5), "m": spaces.MultiDiscrete([3, 1_000, 2_000])})


def test_large_choices_are_looked_up_and_others_one_hot() -> None:
    encoder = Encoder(leaves(LARGE))
    obs = {"n": np.array([[0], [1_000]]), "m": np.array([[2, 999, 1_999], [0, 0, 7]])}
    found = encoder({name: torch.from_numpy(x) for name, x in obs.items()}).detach()
    (of_m, of_n) = (list(encoder.tables[name].children()) for name in ("m", "n"))
    assert encoder.features == found.shape[1] == 3 + 1_000 + 64 + 64 and encoder.learns
    m, n = (table.weight.detach() for table in (of_m[0], of_n[0]) if isinstance(table, nn.Embedding))
    for row in (0, 1):
        few, large, whole = obs["m"][row], m[obs["m"][row, 2]], n[obs["n"][row, 0]]
        assert torch.equal(found[row, :3], torch.eye(3)[few[0]]) and found[row, 3:1_003].argmax() == few[1]
        assert found[row, :1_003].sum() == 2 and torch.equal(found[row, 1_003:], torch.cat([large, whole]))
    np.testing.assert_array_equal(NumpyEncoder(encoder).features(obs), found.numpy())


class States(gym.Env[Any, Any]):
    """Shows one of `n` states; rewards the first action in even ones, the second in odd ones."""

    def __init__(self, n: int = 50_000, continuous: bool = False, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Discrete(n, start=7)
        self.action_space: gym.Space[Any] = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(2)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._show(), {}

    def _show(self) -> int:
        space = self.observation_space
        assert isinstance(space, spaces.Discrete)
        self.state = int(self.np_random.integers(space.n))
        return 7 + self.state

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        reward = float(np.ravel(action)[0] == self.state % 2)
        return self._show(), reward, False, self.t == 5, {}


if "States-v0" not in gym.registry:
    gym.register("States-v0", f"{__name__}:States")


@pytest.mark.parametrize("agent", ["ppo", "dqn", "sac"])
def test_memory_grows_with_the_states_and_not_with_their_square(agent: str) -> None:
    """One 50,000 x 50,000 matrix is 10 GB; one of a batch's 128 rows 25 MB."""
    given: dict[str, Any] = {"num_envs": 2, "env": {"backend": "sync"}}
    if agent == "sac":
        found: Any = levers.learner(agent, "States-v0", kwargs={"continuous": True}, train_freq=16, **given)
    elif agent == "dqn":
        found = q_worlds.q_learner(agent, "States-v0", **given)
    else:
        found = worlds.on_policy(agent, "States-v0", **given)
    while found.progress.step < 40:
        found.update()
    tracemalloc.start()  # of NumPy's memory: not torch's, and after what the first steps import and compile
    try:
        while found.progress.step < 64:
            found.update()
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    table = next(found.policy.network.encoder.tables["obs"].parameters())
    assert table.shape == (50_000, Tables.features)
    if isinstance(found, Continuous):
        assert not found.by_hand
    found.close()


def test_what_no_table_fits_is_refused() -> None:
    with pytest.raises(RequestError, match="observation obs: a table of its 1,000,000,000,000 values takes"):
        Encoder(leaves(spaces.Discrete(10**12)))


# ---- runs from before


@pytest.mark.parametrize("space", [image(0, 1), spaces.Discrete(1_200)], ids=["image", "choice"])
def test_older_runs_act_as_they_were_trained_and_are_not_resumed(space: gym.Space[Any], tmp_path: Path) -> None:
    """Their images were divided by 255, all of their choices one-hot."""
    before = leaves(spaces.Box(0, 255, space.shape, np.uint8) if isinstance(space, spaces.Box) else space)
    gym.register("Older-v0", lambda **kwargs: _showing(space))
    try:
        ppo = worlds.learner("Older-v0", {"backend": "sync"}, num_envs=1, n_steps=2, batch_size=2)
        old = worlds.copied(ppo.state_dict())
        del old["progress"]["encoding"]
        ppo.env.leaves = tuple(replace(leaf, one_hot_at_most=10**9) for leaf in before)
        trained = PPO.policy_for(ppo.config, ppo.env, torch.device("cpu"))
        old["model"] = trained.network.state_dict()  # type: ignore[attr-defined]
        policy = PPO.load(ppo.config, old, torch.device("cpu"), tmp_path)
        obs = {"obs": np.stack([np.ravel(space.sample()).reshape(before[0].shape) for _ in range(3)])}
        np.testing.assert_array_equal(policy.outputs(obs, None), trained.outputs(obs, None))
        again = worlds.learner("Older-v0", {"backend": "sync"}, num_envs=1, n_steps=2, batch_size=2)
        with pytest.raises(RequestError, match="it can be evaluated, played and exported, not resumed"):
            again.load_state_dict(old)
    finally:
        gym.registry.pop("Older-v0")


def _showing(space: gym.Space[Any]) -> gym.Env[Any, Any]:
    env = worlds.Anything()
    env.observation_space = space
    return env
