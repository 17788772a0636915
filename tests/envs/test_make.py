"""From a config to an environment, and the one line for every request that cannot be met."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlgym.config.schema import EnvConfig
from rlgym.envs import make
from rlgym.envs.make import check_id, make_env
from rlgym.errors import RequestError
from tests.envs.toys import Diary, Misbehaving


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("CartPol-v1", "env=CartPol-v1 not found - did you mean env=CartPole-v1?"),
        ("cartpole-v1", "env=cartpole-v1 not found - did you mean env=CartPole-v1?"),
        ("CartPole", "env=CartPole names no version - did you mean env=CartPole-v1?"),
        ("no_such_module:X-v0", "env=no_such_module:X-v0: importing no_such_module failed: ModuleNotFoundError"),
        ("Qwertyuiop-v0", "env=Qwertyuiop-v0 not found"),
    ],
)
def test_unknown_ids(id: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_id(id)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("id", "backend", "extra"),
    [
        ("ALE/Pong-v5", "auto", "atari"),
        ("MiniGrid-Empty-5x5-v0", "auto", "minigrid"),
        ("HalfCheetah-v5", "auto", "mujoco"),
        ("CartPole-v1", "envpool", "envpool"),
    ],
)
def test_a_missing_package_names_the_line_that_installs_it(
    id: str, backend: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extra in ("atari", "minigrid"):
        monkeypatch.delitem(gym.registry, id, raising=False)  # as before the package was imported
    elif extra == "mujoco" and importlib.util.find_spec("mujoco") is not None:
        pytest.skip("mujoco is installed")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError) as caught:
        make_env(EnvConfig(id=id, backend=backend))
    asked = f"env={id}" if backend == "auto" else f"env.backend={backend}"
    assert str(caught.value) == f'{asked} needs a package that is not installed: pip install "rlgym-ssl[{extra}]"'


def test_wrong_arguments_name_the_key() -> None:
    for backend in ("auto", "sync", "async"):
        with pytest.raises(RequestError, match=r"^env\.kwargs=\{'zz': 1\}: env=CartPole-v1 refused: .*'zz'"):
            make_env(EnvConfig(id="CartPole-v1", kwargs={"zz": 1}, backend=backend))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("never made", r"AssertionError \(.*toys\.py:\d+\): assert how != \"never made\""),
        ("no license", r"ValueError \(.*toys\.py:\d+\): no license"),
        ("exits", r"SystemExit \(.*toys\.py:\d+\): 5"),
    ],
)
def test_what_a_constructor_raises_is_told_with_its_place(how: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        make_env(EnvConfig(id="Misbehaving-v0", kwargs={"how": how}, backend="sync"))
    begin = re.escape(f"env=Misbehaving-v0 could not be made with env.kwargs={{'how': '{how}'}}: ")
    assert re.fullmatch(begin + words, str(caught.value)), caught.value


def test_a_module_that_registers_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_world.py").write_text(
        "import gymnasium as gym\ngym.register('Mine-v0', 'tests.envs.toys:Diary', kwargs={'length': 2})\n"
    )
    (tmp_path / "broken_world.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequestError, match="importing broken_world failed: ZeroDivisionError: division by zero"):
        check_id("broken_world:Mine-v0")
    env = make_env(EnvConfig(id="my_world:Mine-v0", num_envs=2))
    env.reset(0)
    assert env.step(np.zeros(2, int)).episodes == []
    assert [e.length for e in env.step(np.zeros(2, int)).episodes] == [2, 2]
    with pytest.raises(RequestError, match="env=my_world:Min-v0 not found - did you mean env=my_world:Mine-v0"):
        check_id("my_world:Min-v0")
    sys.modules.pop("my_world")


def test_backends() -> None:
    def backend(id: str, **options: Any) -> str:
        env = make_env(EnvConfig(id=id, num_envs=2, **options))
        env.close()
        return env.backend

    assert backend("CartPole-v1") == "native"
    assert backend("CartPole-v1", kwargs={"max_episode_steps": 9}) == "native"
    assert backend("CartPole-v1", kwargs={"sutton_barto_reward": True}) == "sync"
    assert backend("CartPole-v1", frame_stack=2) == "sync"
    assert backend("CartPole-v1", backend="sync") == "sync"
    assert backend("CartPole-v1", backend="async") == "async"
    assert backend("Diary-v0") == "sync"
    assert backend("DiaryVector-v0", backend="native") == "native"
    assert backend("DiaryVector-v0") == "native"  # it has nothing else
    # asked for batched code by name, with arguments that only Gymnasium's own supports
    env = make_env(EnvConfig(id="CartPole-v1", backend="native", kwargs={"sutton_barto_reward": True}))
    assert env.phantoms and env.backend == "native"
    with pytest.raises(RequestError, match=r"env\.backend=native: env=Diary-v0 has no batched code"):
        make_env(EnvConfig(id="Diary-v0", backend="native"))
    with pytest.raises(RequestError, match="not native"):
        make_env(EnvConfig(id="CartPole-v1", backend="native", frame_stack=4))


def test_workers_only_where_a_measured_step_repays_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Diary):
        def step(self, action: Any) -> Any:
            time.sleep(0.002)
            return super().step(action)

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert make._repays_workers(Slow, 8)
    assert not make._repays_workers(Slow, 1)
    assert not make._repays_workers(Diary, 8)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert not make._repays_workers(Slow, 8)


def test_frame_stack() -> None:
    env = make_env(EnvConfig(id="Diary-v0", num_envs=2, frame_stack=3))
    assert env.leaves[0].shape == (3, 2)
    assert env.reset(0)["obs"][0, :, 1].tolist() == [0, 0, 0]
    env.step(np.zeros(2, int))
    assert env.step(np.zeros(2, int)).obs["obs"][0, :, 1].tolist() == [0, 1, 2]
    step = env.step(np.zeros(2, int))
    assert step.final_obs is not None and step.final_obs["obs"][0, :, 1].tolist() == [1, 2, 3]
    assert step.obs["obs"][0, :, 1].tolist() == [0, 0, 0]  # nothing of the old episode in the new one's stack


def test_spaces_that_cannot_be_are_refused() -> None:
    two, nothing = gym.spaces.Discrete(2), gym.spaces.Box(-1, 1, (0,))
    supported = "it can be Discrete, MultiDiscrete, Box or MultiBinary"
    several = f"action space Tuple is not supported; {supported}; a Tuple of 2 "
    for id, observed, actions, words in (
        ("Words", gym.spaces.Text(3), two, "observation space obs: Text is not supported"),
        ("Nested", two, gym.spaces.Dict({"a": two}), f"action space Dict is not supported; {supported}; wrap"),
        ("Joint", two, gym.spaces.Tuple((two, two)), f"{several}actions: a wrapper that shows one agent's part, or"),
        ("Agents", gym.spaces.Tuple((two, two)), gym.spaces.Tuple((two, two)), f"{several}actions and as many observ"),
        ("Blind", gym.spaces.Dict({}), two, "observation space Dict() holds no numbers"),
        ("Hollow", gym.spaces.Tuple((nothing, nothing)), two, "observation space Tuple("),
        ("Idle", two, nothing, "action space Box([], [], (0,), float32) holds no numbers: there is nothing to choose"),
        ("Still", two, gym.spaces.MultiDiscrete([]), "action space MultiDiscrete([]) holds no numbers"),
    ):
        env = Misbehaving()
        env.observation_space, env.action_space = observed, actions
        gym.register(f"{id}-v0", partial(deepcopy, env))
        with pytest.raises(RequestError, match=re.escape(f"env={id}-v0: {words}")):
            make_env(EnvConfig(id=f"{id}-v0"))


def test_no_warnings_reach_the_person(recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    make_env(EnvConfig(id="CartPole-v0", backend="sync")).close()  # out of date, says Gymnasium
    assert not recwarn.list and capfd.readouterr().err == ""


def test_check_env_accepts_the_toy() -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(gym.make("Masked-v0", disable_env_checker=True).unwrapped, skip_render_check=True)
