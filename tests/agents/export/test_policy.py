"""policy.onnx and policy.pt2 are the policy: other programs make the same of an environment's own observations."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rlgym
from rlgym.agents.common.policy import Policy
from rlgym.agents.export.policy import (
    ROWS,
    TOLERANCE,
    Call,
    as_given,
    difference,
    one_step,
    random_inputs,
    require_function,
    write_policy,
)
from rlgym.agents.on_policy.recurrent import Memory
from rlgym.cli.main import main
from rlgym.config.registry import entry, resolve
from rlgym.config.schema import EnvConfig, TrainConfig
from rlgym.envs.spaces import Array, Obs, part
from rlgym.errors import RequestError
from tests.agents import worlds
from tests.agents.worlds import ACTIONS, OBSERVATIONS

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

EVERYTHING = spaces.Dict(  # each kind of leaf, and names that the exported function has for itself
    {
        "action": spaces.Discrete(3, start=-1),
        "outputs": spaces.Box(-1, 1, (2, 2), np.float64),
        "bytes": spaces.Box(0, 255, (3,), np.uint8),
        "eye": spaces.Box(0, 255, (2, 36, 40, 3), np.uint8),
        "more": spaces.Tuple((spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(2), spaces.Box(-np.inf, np.inf, ()))),
    }
)
SCALED = {"normalize_observation": True}
KINDS: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any]]] = {  # agent, observation, action, knobs, env
    "everything": ("ppo", "everything", "multidiscrete_start", {}, SCALED),
    "scaled": ("ppo", "vector", "box_asymmetric", {}, SCALED),
    "lstm": ("ppo", "vector", "box", {"recurrent": "lstm", "hidden_size": 6}, SCALED),
    "q-values": ("dqn", "dict", "discrete_start", {"dueling": True, "noisy": True, "distributional": "c51"}, {}),
    "sac": ("sac", "vector", "box_asymmetric", {}, {}),
    "sb3/ppo": ("sb3/ppo", "everything", "multidiscrete_start", {}, SCALED),
    "sb3/sac": ("sb3/sac", "vector", "box_asymmetric", {}, {}),
}


@pytest.fixture(scope="module", autouse=True)
def everything() -> Iterator[None]:
    OBSERVATIONS["everything"] = EVERYTHING
    yield
    del OBSERVATIONS["everything"]


def policy_of(agent: str, observation: str, action: str, knobs: dict[str, Any], env: dict[str, Any]) -> Policy:
    """On-policy agents after an update, so that the running statistics are not those they begin with."""
    worlds.register()
    known = entry("agent", agent)
    on_policy = {"n_steps": 8} | ({"batch_size": 16, "n_epochs": 1} if agent.endswith("ppo") else {})
    small = {"net_arch": [16]} | (on_policy if agent.endswith(("ppo", "a2c")) else {"buffer_size": 100})
    config = TrainConfig(device="cpu", threads=1, compile="off", agent=resolve(known.config)(**{**small, **knobs}))
    kwargs = {"observation": observation, "action": action}
    config.env = EnvConfig("Anything-v0", num_envs=2, kwargs=kwargs, backend="sync", **env)
    learner = resolve(known.target)(config)
    if agent.endswith("ppo"):
        learner.update()
    learner.close()
    policy = learner.policy
    return policy.function() if agent.startswith("sb3/") else policy  # type: ignore[no-any-return]


@dataclass
class Exports:
    """A policy of each kind, its files and their description, made when it is first asked for."""

    folder: Path
    made: dict[str, tuple[Policy, Path, dict[str, Any]]] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> tuple[Policy, Path, dict[str, Any]]:
        if kind not in self.made:
            policy, folder = policy_of(*KINDS[kind]), self.folder / kind
            folder.mkdir(parents=True)
            self.made[kind] = policy, folder, write_policy(policy, folder)
        return self.made[kind]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_act_as_the_policy_does(kind: str, exports: Exports) -> None:
    """ONNX Runtime and torch, step by step through three short episodes at once, beside `predict` in each alone."""
    policy, folder, described = exports[kind]
    assert sorted(path.name for path in folder.iterdir()) == ["policy.onnx", "policy.pt2"]
    session = onnxruntime.InferenceSession(folder / "policy.onnx")
    program = torch.export.load(folder / "policy.pt2").module()
    space, actions = OBSERVATIONS[KINDS[kind][1]], ACTIONS[KINDS[kind][2]]
    space.seed(1)
    episodes = [[space.sample() for _ in range(3)] for _ in range(3)]
    wanted = []
    for episode in episodes:
        policy.start(1)
        wanted.append([policy.predict(observation) for observation in episode])

    leaves, names = policy.network.encoder.leaves, [found["name"] for found in described["inputs"]]
    memory = [np.zeros((3, policy.network.width), np.float32)] if "memory" in names else []  # type: ignore[attr-defined]
    theirs: list[Any] = [torch.from_numpy(each.copy()) for each in memory]
    for step in range(3):
        arrays = [np.stack([np.asarray(part(e[step], leaf.path)) for e in episodes]) for leaf in leaves]
        action, outputs, *memory = session.run(None, dict(zip(names, [*arrays, *memory], strict=True)))
        observed = {leaf.name: torch.from_numpy(x) for leaf, x in zip(leaves, arrays, strict=True)}
        found = program(observed, **({"memory": theirs[0]} if theirs else {}))
        theirs = [found["next_memory"]] if theirs else []
        np.testing.assert_allclose(outputs, found["outputs"].numpy(), rtol=1e-5, atol=1e-5)
        for chosen in (action, found["action"].numpy()):
            for one, episode in zip(chosen, wanted, strict=True):
                assert actions.contains(one) and np.asarray(one).dtype == np.asarray(episode[step]).dtype
                if isinstance(actions, spaces.Box):
                    np.testing.assert_allclose(one, episode[step], rtol=1e-5, atol=1e-5)
                else:
                    np.testing.assert_array_equal(one, episode[step])
    alone = session.run(["action"], {name: x[:1] for name, x in zip(names, [*arrays, *memory], strict=True)})
    assert len(alone[0]) == 1

    types = {"float32": "float", "float64": "double"}
    for said, told in ((described["inputs"], session.get_inputs()), (described["outputs"], session.get_outputs())):
        assert [each["name"] for each in said] == [each.name for each in told]
        for mine, its in zip(said, told, strict=True):
            assert (
                its.type == f"tensor({types.get(mine['dtype'], mine['dtype'])})" and its.shape[1:] == mine["shape"][1:]
            )
    assert described["checked"]["largest_difference"] <= TOLERANCE

    with zipfile.ZipFile(folder / "policy.pt2") as archive:  # JSON and plain arrays: nothing that could run
        for name in archive.namelist():
            data = archive.read(name)
            assert not data.startswith((b"PK", b"\x80\x02", b"\x80\x04")) and not name.endswith((".pkl", ".pickle"))
            assert not (name.endswith(".pt") and data)


def test_the_scaling_inside_is_what_was_seen_in_training(exports: Exports) -> None:
    """By hand, from the checkpoint's numbers: (x - mean) / deviation, clipped to 10, and then the network."""
    policy, folder, _ = exports["scaled"]
    state = {name: tensor.numpy() for name, tensor in policy.network.state_dict().items()}  # type: ignore[attr-defined]
    assert state["encoder.norms.obs.count"] == 16
    x = np.array([[0.5, -2.0, 5.0], [3e3, 0.0, 1.0]], np.float32)
    scaled = (x - state["encoder.norms.obs.mean"]) / np.sqrt(state["encoder.norms.obs.variance"] + 1e-8)
    hidden = np.tanh(np.clip(scaled, -10, 10) @ state["actor.0.weight"].T + state["actor.0.bias"])
    mean = hidden @ state["actor.2.weight"].T + state["actor.2.bias"]
    space = ACTIONS["box_asymmetric"]
    assert isinstance(space, spaces.Box)
    action, outputs = onnxruntime.InferenceSession(folder / "policy.onnx").run(None, {"obs": x})
    np.testing.assert_allclose(outputs, np.concatenate([mean, np.tile(state["log_std"], (2, 1))], 1), atol=1e-5)
    np.testing.assert_allclose(action, np.clip(mean.reshape(2, *space.shape), space.low, space.high), atol=1e-5)


LIBRARY = {
    "a2c": ("image_and_vector", "multibinary", {}, SCALED),
    "a2c exploring": ("vector", "box", {"use_sde": True}, {}),
    "ppo": ("large", "box_asymmetric", {}, SCALED),
    "dqn": ("dict", "discrete_start", {}, {}),
    "sac exploring": ("discrete", "box", {"use_sde": True}, {}),
    "td3": ("multidiscrete", "box_asymmetric", {}, {}),
}


@pytest.mark.parametrize("case", LIBRARY)
def test_the_librarys_networks_give_the_librarys_actions(case: str) -> None:
    """Of each algorithm of Stable-Baselines3, by the network and distribution that are exported."""
    observation, action, knobs, env = LIBRARY[case]
    policy: Any = policy_of(f"sb3/{case.split()[0]}", observation, action, knobs, env)
    obs, _ = random_inputs(policy, masked=False, rows=32)
    found, wanted = Policy.act(policy, obs), policy.original.act(obs)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_one_step_of_a_memory_is_that_of_the_policy(cell: str) -> None:
    generator = torch.Generator().manual_seed(0)
    memory = Memory(cell, 5, 7)
    for parameter in memory.parameters():
        parameter.data.normal_(generator=generator)
    x, state = torch.randn(4, 5, generator=generator), torch.randn(4, memory.width, generator=generator)
    for found, right in zip(one_step(memory, x, state), memory.step(x, state), strict=True):
        torch.testing.assert_close(found, right)


def test_only_legal_actions_where_the_environment_tells_them(tmp_path: Path) -> None:
    trained = worlds.learner("AllowedOnly-v0", kwargs={"parts": "multidiscrete"}, num_envs=2)
    trained.update()
    trained.close()
    described = write_policy(trained.policy, tmp_path, masked=True)
    assert described["inputs"][1]["name"] == "action_mask" and described["inputs"][1]["shape"] == ["batch", 7]
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    env = gym.make("AllowedOnly-v0", parts="multidiscrete")
    observation, info = env.reset(seed=3)
    for _ in range(7):
        mask = np.hstack(info["action_mask"]).astype(bool)
        (action,), (outputs,) = session.run(None, {"obs": observation[None], "action_mask": mask[None]})
        legal = np.where(mask, outputs, -np.inf)
        np.testing.assert_array_equal(action, [legal[:3].argmax(), legal[3:].argmax()])
        np.testing.assert_array_equal(action, trained.policy.predict(observation, mask))
        observation, _, _, _, info = env.step(action)  # raises on an illegal one


@pytest.mark.parametrize(
    ("agent", "game", "knobs"), [("alphazero", "tic_tac_toe", ["agent.width=16"]), ("nfsp", "kuhn_poker", [])]
)
def test_the_network_of_a_game_plays_on_by_itself(agent: str, game: str, knobs: list[str], tmp_path: Path) -> None:
    words = [f"agent={agent}", f"env={game}", "steps=512", "agent.games=64", "threads=1", "display=quiet", *knobs]
    assert main(["train", *words, "evaluate.every=0", f"run.dir={tmp_path / 'run'}"]) == 0
    assert main(["export", str(tmp_path / "run")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "run" / "export" / "policy.onnx")
    player = rlgym.load(tmp_path / "run")
    env = gym.make(game)
    observation, info = env.reset(seed=1)
    board, mask = observation["observation"][None], np.asarray(info["action_mask"], bool)[None]
    action, outputs = session.run(None, {"observation": board, "action_mask": mask})
    with torch.inference_mode():
        found = player.network(torch.from_numpy(board))
    right = (found[0] if isinstance(found, tuple) else found).numpy()
    np.testing.assert_allclose(outputs, right, atol=1e-5)
    assert action[0] == np.where(mask, right, -np.inf).argmax()
    env.step(action[0])


def test_a_file_that_is_not_the_policy_is_refused() -> None:
    """The comparison that the command rests on sees other numbers, other actions, other shapes and NaN."""
    policy, choosing, remembering = (policy_of(*KINDS[kind]) for kind in ("scaled", "q-values", "lstm"))

    def faulty(policy: Policy, key: str, fault: Any) -> Call:
        """The policy itself, but for `fault` in what it gives as `key`."""
        leaves = policy.network.encoder.leaves
        starts = {leaf.name: 0 if leaf.start is None else leaf.start for leaf in leaves}

        def call(given: Obs, besides: dict[str, Array]) -> dict[str, Array]:
            obs = {x.name: given[x.name].reshape(-1, *x.shape) - starts[x.name] for x in leaves}
            assert all(np.array_equal(as_given(leaves, obs)[name], value) for name, value in given.items())
            with torch.inference_mode():
                found = {}
                if besides:
                    outputs, after = policy.network.act(policy.tensors(obs), torch.from_numpy(besides["memory"]))  # type: ignore[attr-defined]
                    found = {"next_memory": after.numpy()}
                else:
                    outputs = policy.network.policy(policy.tensors(obs))
            action = policy.to_env(policy.distribution.sample_numpy(outputs.numpy(), None))
            action = action - 5 if policy is choosing else action  # where that space begins
            found |= {"outputs": outputs.numpy().copy(), "action": action}
            found[key] = fault(found[key])
            return found

        return call

    for each in (policy, choosing, remembering):
        assert difference(each, faulty(each, "action", lambda x: x), False, ROWS, "policy.onnx") <= 1e-6
    rounding: Any = lambda x: np.where(np.arange(len(x)) == 7, x + 1, x)  # noqa: E731  one choice of 256
    difference(choosing, faulty(choosing, "action", rounding), False, ROWS, "policy.onnx")
    for each, key, fault, words in [
        (policy, "outputs", lambda x: x + 1e-3, "its numbers differ by"),
        (policy, "action", lambda x: x + 0.1, "its numbers differ by"),
        (policy, "action", lambda x: x.astype(np.float32), r"its action is float32 \[256, 2, 3\] and not float64"),
        (policy, "outputs", lambda x: x[:, :1], "its outputs is float32"),
        (policy, "outputs", lambda x: x * np.nan, "its numbers differ by nan"),
        (choosing, "action", lambda x: x + 1, "its actions are others"),
        (choosing, "outputs", lambda x: x * 1.01 + 0.01, "its numbers differ by"),
        (remembering, "next_memory", lambda x: x * 0, "its numbers differ by"),
    ]:
        with pytest.raises(RequestError, match=f"policy.onnx is not the policy of this run: {words}"):
            difference(each, faulty(each, key, fault), False, ROWS, "policy.onnx")


def test_what_acts_by_code_of_its_own_is_refused() -> None:
    with pytest.raises(RequestError, match="export: agent=mine acts by code of its own"):
        require_function(object(), "mine")
