"""`export RUN` of a policy: policy.onnx and policy.pt2, one function from an environment's observations to its actions.
Both files hold the graph that torch.export traces from the modules that act: running normalisation, one-hot choices and
scaled images before the network, the distribution's mode and the action space's bounds after it. They are read back and
compared with the policy on random observations before the command reports success.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rlgym.agents.common.distributions import Gaussian, MultiCategorical, NoisyTanh, SquashedGaussian, mask_logits
from rlgym.agents.common.policy import Policy, to_bounds
from rlgym.agents.on_policy.recurrent import Memory, RecurrentPolicy
from rlgym.agents.q_learning.epsilon_greedy import EpsilonGreedy
from rlgym.agents.selfplay.game_policy import game_policy
from rlgym.common.atomic_io import to_json, write_atomic
from rlgym.envs.game_ids import alone
from rlgym.envs.make import make_env, make_one
from rlgym.envs.spaces import Array, Leaf, Obs
from rlgym.envs.sync import action_start, mask_parts
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.export_folder import export_folder, replacing
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load
from rlgym.run_folder.manifest import versions

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from rlgym.config.schema import EnvConfig, TrainConfig

PACKAGES = ("onnx", "onnxscript")
MASK, MEMORY = "action_mask", "memory"
"""Names of inputs other than the observation's leaves."""
ACTION, OUTPUTS, NEXT_MEMORY = "action", "outputs", "next_memory"
TOLERANCE = 1e-5
"""Tolerance between the files' outputs and the policy's, relative to the largest where that exceeds 1."""
TIES = 0.01
"""Tolerated share of differing discrete actions: two may be equally good up to rounding."""
ROWS, IMAGE_ROWS = 256, 16
"""Number of random observations to compare."""

BESIDES = {
    "alphazero": ["The search that the run plays with is not inside: this is the network alone."],
    "nfsp": ["The run draws its moves from softmax(outputs); `action` is the likeliest."],
}
"""Further sentences in the README of some agents' exports."""

Call = Callable[[Obs, dict[str, Array]], dict[str, Array]]
"""The function in a file: observations as the environment returns them, leaf name -> [batch, *leaf.given], and the
other inputs, to its outputs."""


def export(folder: Path, words: dict[str, Any]) -> Path:
    """Write policy.onnx, policy.pt2, policy.json and a README.md, complete or not at all; prints and returns the
    folder."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise RequestError(f'export needs {" and ".join(missing)}, not installed: pip install "rlgym-ssl[export]"')
    run = Run(folder)
    config: TrainConfig = load_config(folder, trust=words["trust"])
    target = export_folder(words["path"], folder, "policy.json")
    policy = load(run, words["checkpoint"], trust=words["trust"])
    env = make_env(alone(config.env), num_envs=1)
    try:
        env.reset(config.seed)
        if hasattr(policy, "function"):
            policy = policy.function()
        elif not isinstance(policy, Policy) and isinstance(getattr(policy, "network", None), nn.Module):
            policy = game_policy(policy.network, env)
        require_function(policy, config.agent.name)
        space, masked = env.observation_space, env.action_mask is not None and policy.heeds_masks
    finally:
        env.close()
    with replacing(target) as made:
        described = write_policy(policy, made, masked)
        described |= {
            "agent": config.agent.name,
            "environment": asdict(config.env),
            "wrapped": wrapped(alone(config.env)),
            "observation_space": str(space),
            "action_space": str(policy.action_space),
            "run": {key: run.manifest.get(key) for key in ("command", "seed", "start")} | {"name": run.name},
            "checkpoint": words["checkpoint"],
            "versions": dict(versions()) | {package: version(package) for package in PACKAGES},
        }
        write_atomic(made / "policy.json", to_json(described))
        write_atomic(made / "README.md", read_me(config, policy, described))
    checked = described["checked"]
    print(
        f"written to {target}: policy.onnx and policy.pt2, equal to the policy to {checked['largest_difference']:.1g} "
        f"on {checked['observations']} random observations; README.md says how to use them"
    )
    return target


def wrapped(config: EnvConfig) -> str:
    """The environment with its wrappers, as Gymnasium prints it."""
    if gym.registry[config.id.split(":")[-1]].entry_point is None:  # only batched code exists
        return config.id
    env = make_one(config, dict(config.kwargs))
    try:
        return str(env)
    finally:
        env.close()


def require_function(policy: Any, agent: str) -> None:
    """RequestError unless the policy is a network that can be traced."""
    if not isinstance(policy, Policy) or not isinstance(policy.network, nn.Module):
        raise RequestError(f"export: agent={agent} acts by code of its own, which cannot be written as one function")


# ---- the function


class Deployed(nn.Module):
    """A policy as one function of tensors.

    Inputs: leaf name -> `[batch, *leaf.given]`, as the environment returns them; with action masks, a mask `[batch,
    n]`, True for legal actions; for recurrent policies, the memory `[batch, width]`, zeros at the start of an episode.
    Outputs: "action" `[batch, ...]`, the mode, as the environment's `step` takes it; "outputs" `[batch, outputs]`, the
    distribution's parameters, unmasked; and "next_memory".
    """

    start: Tensor | None
    low: Tensor | None
    high: Tensor | None

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.network: Any = deepcopy(policy.network).requires_grad_(False)  # type: ignore[attr-defined]
        self.distribution = policy.distribution
        self.leaves: tuple[Leaf, ...] = self.network.encoder.leaves
        self.squashed = policy.squashed
        for index, leaf in enumerate(self.leaves):
            if leaf.start is not None:
                self.register_buffer(f"start_{index}", torch.from_numpy(leaf.start.copy()))
        space = policy.action_space
        start = action_start(space)
        self.register_buffer("start", None if start is None else torch.from_numpy(start.astype(np.int64)))
        for bound in ("low", "high"):
            value = getattr(space, bound).copy() if isinstance(space, gym.spaces.Box) else None
            self.register_buffer(bound, None if value is None else torch.from_numpy(value))

    def forward(
        self, obs: dict[str, Tensor], action_mask: Tensor | None = None, memory: Tensor | None = None
    ) -> dict[str, Tensor]:
        counted = {}
        for index, leaf in enumerate(self.leaves):
            value = obs[leaf.name]
            value = value.reshape(value.shape[0], *leaf.shape)
            counted[leaf.name] = value if leaf.start is None else value - getattr(self, f"start_{index}")
        after = {}
        if memory is None:
            outputs = self.network.policy(counted)
        else:
            features = self.network.encoder(counted)
            hidden, after[NEXT_MEMORY] = one_step(self.network.memory_of("actor"), features, memory)
            outputs = self.network.outputs(hidden)
        action = self.distribution.sample(mask_logits(outputs, action_mask), None)
        if self.low is not None and self.high is not None:
            action = to_bounds(action, self.low, self.high, self.squashed).to(self.low.dtype)
        elif self.start is not None:
            action = action + self.start
        return {ACTION: action, OUTPUTS: outputs, **after}


def one_step(memory: Memory, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """`memory.step` in elementary operations, since packed sequences would fix the batch size when traced."""
    layer = memory.layer
    weights: Any = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    if isinstance(layer, nn.LSTM):
        hidden, cell = torch.lstm_cell(x, list(state.chunk(2, -1)), *weights)
        return hidden, torch.cat([hidden, cell], -1)
    hidden = torch.gru_cell(x, state, *weights)
    return hidden, hidden


def trace(policy: Policy, masked: bool) -> ExportedProgram:
    """The traced graph, for any batch size."""
    obs, others = random_inputs(policy, masked, 3)
    example = in_torch(as_given(policy.network.encoder.leaves, obs)), in_torch(others)
    batch = {0: torch.export.Dim("batch", min=1)}
    shapes = {"obs": dict.fromkeys(example[0], batch), **dict.fromkeys(example[1], batch)}
    with torch.no_grad():
        return torch.export.export(Deployed(policy), (example[0],), example[1], dynamic_shapes=shapes)


def in_torch(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


# ---- the files


def write_policy(policy: Policy, folder: Path, masked: bool = False) -> dict[str, Any]:
    """Write policy.onnx and policy.pt2 into `folder`, read them back and compare; returns the contents of policy.json.
    `masked`: whether the environment has action masks. RequestError where a file differs from the policy.
    """
    names = input_names(policy.network.encoder.leaves)
    described = signature(policy, names, masked)
    with quietly():
        program = trace(policy, masked)
        onnx = torch.onnx.export(
            program,
            input_names=[found["name"] for found in described["inputs"]],
            output_names=[found["name"] for found in described["outputs"]],
            verbose=False,
        )
        assert onnx is not None
        onnx.save(folder / "policy.onnx", external_data=False)
        program.example_inputs = None  # they would be pickled
        torch.export.save(program, folder / "policy.pt2")
        calls = {"policy.onnx": onnx_call(folder / "policy.onnx", names), "policy.pt2": pt2_call(folder / "policy.pt2")}
        rows = IMAGE_ROWS if policy.network.encoder.images else ROWS
        worst = max(difference(policy, calls[name], masked, count, name) for name in calls for count in (rows, 1))
    return {**described, "checked": {"observations": rows, "largest_difference": worst}}


def input_names(leaves: tuple[Leaf, ...]) -> dict[str, str]:
    """Leaf name -> name of its input in the ONNX graph, where inputs and outputs share a namespace."""
    taken = {MASK, MEMORY, ACTION, OUTPUTS, NEXT_MEMORY}
    return {leaf.name: f"obs.{leaf.name}" if leaf.name in taken else leaf.name for leaf in leaves}


def onnx_call(path: Path, names: Mapping[str, str]) -> Call:
    """Runs an ONNX file by onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))

    def call(obs: Obs, others: dict[str, Array]) -> dict[str, Array]:
        found = evaluator.run(None, {names[name]: value for name, value in obs.items()} | others)
        return dict(zip(evaluator.output_names, found, strict=True))

    return call


def pt2_call(path: Path) -> Call:
    module: Any = torch.export.load(path).module()

    def call(obs: Obs, others: dict[str, Array]) -> dict[str, Array]:
        return {name: found.numpy() for name, found in module(in_torch(obs), **in_torch(others)).items()}

    return call


# ---- comparison with the policy


def random_inputs(policy: Policy, masked: bool, rows: int, seed: int = 0) -> tuple[Obs, dict[str, Array]]:
    """Random observations `[rows, *leaf.shape]` within their space and near the origin, and the other inputs: a mask
    `[rows, n]`, an initial memory `[rows, width]`."""
    generator = np.random.default_rng(seed)
    obs = {}
    for leaf in policy.network.encoder.leaves:
        assert leaf.low is not None and leaf.high is not None
        shape = (rows, *leaf.shape)
        if np.issubdtype(leaf.dtype, np.floating):
            low = np.maximum(leaf.low, np.minimum(leaf.high, 0) - 10.0)
            high = np.minimum(leaf.high, np.maximum(leaf.low, 0) + 10.0)
            obs[leaf.name] = generator.uniform(low, high, shape).astype(leaf.dtype)
        else:
            low, high = leaf.low.astype(np.int64), leaf.high.astype(np.int64)
            obs[leaf.name] = generator.integers(low, high, shape, endpoint=True).astype(leaf.dtype)
    others: dict[str, Array] = {}
    if masked:
        parts = []
        for size in mask_parts(policy.action_space):
            part = generator.random((rows, size)) < 0.5
            part[np.arange(rows), generator.integers(size, size=rows)] = True
            parts.append(part)
        others[MASK] = np.concatenate(parts, 1)
    if isinstance(policy, RecurrentPolicy):
        others[MEMORY] = np.zeros((rows, policy.network.width), np.float32)
    return obs, others


def as_given(leaves: tuple[Leaf, ...], obs: Obs) -> Obs:
    """Undo the counting from 0: observations `[batch, *leaf.shape]` as the environment returns them."""
    found = {}
    for leaf in leaves:
        value = obs[leaf.name] if leaf.start is None else obs[leaf.name] + leaf.start
        found[leaf.name] = value.reshape(len(value), *leaf.given)
    return found


def difference(policy: Policy, call: Call, masked: bool, rows: int, name: str) -> float:
    """The largest difference between a file's outputs and the policy's, relative to the largest where that exceeds 1;
    RequestError beyond rounding. Recurrent policies take two steps of an episode."""
    leaves, start = policy.network.encoder.leaves, action_start(policy.action_space)
    numbers = isinstance(policy.action_space, gym.spaces.Box)
    memory: dict[str, Array] = {}
    gaps = [0.0]
    policy.start(rows)
    for step in range(2 if isinstance(policy, RecurrentPolicy) else 1):
        obs, others = random_inputs(policy, masked, rows, seed=step)
        found = call(as_given(leaves, obs), others | memory)
        wanted: dict[str, Array] = {}
        with torch.inference_mode():
            if isinstance(policy, RecurrentPolicy):
                before = torch.from_numpy((others | memory)[MEMORY])
                outputs, after = policy.network.act(policy.tensors(obs), before)
                wanted[NEXT_MEMORY] = after.numpy()
                memory = {MEMORY: found[NEXT_MEMORY]}
            else:
                outputs = policy.network.policy(policy.tensors(obs))
        wanted[OUTPUTS] = outputs.numpy()
        action = policy.act(obs, others.get(MASK))
        wanted[ACTION] = action if start is None else action + start
        for key, right in wanted.items():
            if found[key].shape != right.shape or found[key].dtype != right.dtype:
                kinds = [f"{x.dtype} {list(x.shape)}" for x in (found[key], right)]
                raise RequestError(
                    f"export: {name} is not the policy of this run: its {key} is {' and not '.join(kinds)}"
                )
            if key == ACTION and not numbers:
                if np.mean(found[key] != right) > TIES:
                    raise RequestError(f"export: {name} is not the policy of this run: its actions are others")
                continue
            gap = np.abs(found[key].astype(np.float64) - right).max() / max(1.0, np.abs(right).max())
            gaps.append(float(gap))
    worst = float(np.max(gaps))
    if not worst <= TOLERANCE:
        raise RequestError(f"export: {name} is not the policy of this run: its numbers differ by {worst:.2g}")
    return worst


# ---- description


def signature(policy: Policy, names: Mapping[str, str], masked: bool) -> dict[str, Any]:
    """Inputs and outputs, for policy.json."""
    inputs: list[dict[str, Any]] = []
    for leaf in policy.network.encoder.leaves:
        found = {
            "name": names[leaf.name],
            "path": list(leaf.path),
            "dtype": str(leaf.dtype),
            "shape": ["batch", *leaf.given],
            "kind": {"onehot": "choices", "vector": "numbers", "image": "image"}[leaf.kind],
        }
        if leaf.kind == "image":
            found["layout"] = leaf.layout
        if leaf.kind == "onehot":
            start = np.zeros(leaf.shape, np.int64) if leaf.start is None else leaf.start
            found |= {"choices": list(leaf.nvec), "start": start.tolist()}
        inputs.append(found)
    distribution, space = policy.distribution, policy.action_space
    if masked:
        size = sum(mask_parts(space))
        inputs.append(
            {"name": MASK, "dtype": "bool", "shape": ["batch", size], "kind": "True where an action is legal"}
        )
    dtype = str(space.dtype) if isinstance(space, gym.spaces.Box) else "int64"
    shape, outputs = ["batch", *(space.shape or ())], ["batch", distribution.outputs]
    given = [
        {"name": ACTION, "dtype": dtype, "shape": shape, "kind": "what `step` takes"},
        {"name": OUTPUTS, "dtype": "float32", "shape": outputs, "kind": meaning(policy)},
    ]
    if isinstance(policy, RecurrentPolicy):
        memory = {"dtype": "float32", "shape": ["batch", policy.network.width]}
        inputs.append({"name": MEMORY, **memory, "kind": "zeros at the start of an episode, then `next_memory`"})
        given.append({"name": NEXT_MEMORY, **memory, "kind": "what it remembers"})
    return {"format": 1, "inputs": inputs, "outputs": given}


def meaning(policy: Policy) -> str:
    """Description of the network's outputs."""
    distribution = policy.distribution
    if isinstance(distribution, EpsilonGreedy):
        return "values of the actions"
    if isinstance(distribution, MultiCategorical):
        return f"logits of the choices, {' + '.join(map(str, distribution.nvec))} side by side"
    if isinstance(distribution, NoisyTanh):
        return "the numbers of an action before tanh"
    if isinstance(distribution, Gaussian):
        before = " before tanh" if isinstance(distribution, SquashedGaussian) else ""
        return f"means of an action's numbers{before}, then logarithms of their deviations"
    return "logits of the actions"


def read_me(config: TrainConfig, policy: Policy, described: Mapping[str, Any]) -> str:
    """Usage of the files, in a few lines each."""
    leaves = policy.network.encoder.leaves
    names = input_names(leaves)
    arrays = {leaf.name: "observation" + "".join(f"[{key!r}]" for key in leaf.path) for leaf in leaves}
    legal = "np.hstack(info['action_mask']).astype(bool)[None]"
    masked = any(found["name"] == MASK for found in described["inputs"])
    remembers = isinstance(policy, RecurrentPolicy)
    width = policy.network.width if isinstance(policy, RecurrentPolicy) else 0
    onnx = [f"{names[name]!r}: np.asarray({value})[None]" for name, value in arrays.items()]
    onnx += [f"{MASK!r}: {legal}"] * masked + [f"{MEMORY!r}: memory"] * remembers
    pt2 = ["{" + ", ".join(f"{name!r}: torch.as_tensor({value})[None]" for name, value in arrays.items()) + "}"]
    pt2 += [f"{MASK}=torch.from_numpy({legal})"] * masked + [f"{MEMORY}=memory"] * remembers
    begin = "  # where an episode begins"
    rows = [
        f"| {kind[:-1]} | `{found['name']}` | {found['dtype']} {found['shape']} | {found['kind']} |".replace("'", "")
        for kind in ("inputs", "outputs")
        for found in described[kind]
    ]
    checked = described["checked"]
    lines = [
        f"# {config.agent.name} on {config.env.id}",
        "",
        "A policy as one function: from observations as the environment gives them, in a batch, to actions as its",
        "`step` takes them. Scaling, one-hot choices and bounds are inside. `policy.onnx` and `policy.pt2` are one and",
        f"the same; read back, they equalled the run's policy to {checked['largest_difference']:.1g} on",
        f"{checked['observations']} random observations.",
        *BESIDES.get(config.agent.name, []),
        "",
        "```python",
        "import numpy as np",
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("policy.onnx")',
        *([f"memory = np.zeros((1, {width}), np.float32){begin}"] * remembers),
        f"action, outputs{', memory' * remembers} = session.run(None, {{{', '.join(onnx)}}})",
        "```",
        "",
        "```python",
        *(["import numpy as np"] * masked),
        "import torch",
        'policy = torch.export.load("policy.pt2").module()',
        *([f"memory = torch.zeros(1, {width}){begin}"] * remembers),
        f"found = policy({', '.join(pt2)})",
        f'action = found["action"].numpy(){"; memory = found[" + repr(NEXT_MEMORY) + "]" if remembers else ""}',
        "```",
        "",
        f"`action[0]` is for `env.step`.{' `info` is what `reset` and `step` gave.' * masked} The action is the",
        "deterministic one; `outputs` is what it was chosen by.",
        "",
        "| | name | type and shape | |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Environment: `{described['wrapped']}`; observations `{described['observation_space']}`, actions",
        f"`{described['action_space']}`. What its wrappers do, as stacking frames, is not inside.",
        "",
        "`policy.onnx` is data that a runtime interprets. `policy.pt2` holds no pickle either, but `torch.export.load`",
        "would unpickle one if a file held it: load only `.pt2` files that you or somebody you trust wrote.",
        "`policy.json` has all of this, the environment's settings and the versions, for programs.",
        "",
    ]
    return "\n".join(lines)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the exporters' advice and progress; errors still appear."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
