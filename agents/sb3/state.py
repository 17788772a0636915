"""The state of a Stable-Baselines3 model as tensors and JSON of checkpoint sections; nothing is pickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rlgym.envs.spaces import Array
from rlgym.errors import RequestError
from rlgym.learner import Section, Shared

SEGMENT = 16_384
"""Transitions of one segment of a replay; small replays have smaller segments, `SEGMENTS` of them."""
SEGMENTS = 16


# ---- random generators


class GlobalRandom:
    """Private states of torch's and NumPy's global generators, which the library draws from: `with random():` installs
    them, and restores the process's own afterwards."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.states = self._now()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        outside = self._now()
        self._set(self.states)
        try:
            yield
        finally:
            self.states = self._now()
            self._set(outside)

    def _now(self) -> tuple[Any, Any, Any]:
        on_gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return torch.get_rng_state(), np.random.get_state(), on_gpu

    def _set(self, states: tuple[Any, Any, Any]) -> None:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        if states[2] is not None:
            torch.cuda.set_rng_state(states[2], self.device)

    def state_dict(self) -> dict[str, Any]:
        on_cpu, (kind, key, *rest), on_gpu = self.states
        numpy = {"kind": kind, "key": key.tolist(), "rest": rest}
        return {"torch": on_cpu, "numpy": numpy} | ({} if on_gpu is None else {"cuda": on_gpu})

    def load_state_dict(self, section: Section) -> None:
        """A checkpoint of another kind of device leaves this device's generator unchanged."""
        numpy = cast(dict[str, Any], section["numpy"])
        key = np.array(numpy["key"], np.uint32)
        on_gpu = section.get("cuda", self.states[2]) if self.device.type == "cuda" else None
        torch.Generator().set_state(section["torch"])  # these two raise for invalid states
        np.random.RandomState().set_state((numpy["kind"], key, *numpy["rest"]))
        self.states = section["torch"], (numpy["kind"], key, *numpy["rest"]), on_gpu


# ---- optimisers and single tensors


def optimizers_state(model: BaseAlgorithm) -> dict[str, Tensor]:
    """`optimizer.index.name` -> tensor. Step sizes and the like follow from the knobs."""
    return {
        f"{name}.{index}.{key}": value
        for name, optimizer in _optimizers(model).items()
        for index, tensors in optimizer.state_dict()["state"].items()
        for key, value in tensors.items()
    }


def load_optimizers(model: BaseAlgorithm, section: Section) -> None:
    for name, optimizer in _optimizers(model).items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in section.items():
            if key.startswith(f"{name}."):
                index, part = key.removeprefix(f"{name}.").split(".")
                state.setdefault(int(index), {})[part] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizers(model: BaseAlgorithm) -> dict[str, torch.optim.Optimizer]:
    names, _ = model._get_torch_save_params()
    return {name: recursive_getattr(model, name) for name in names if name != "policy"}


def variables_state(model: BaseAlgorithm) -> dict[str, Tensor]:
    """Tensors outside of the networks, such as SAC's entropy coefficient."""
    _, names = model._get_torch_save_params()
    return {name: recursive_getattr(model, name).detach() for name in names}


def load_variables(model: BaseAlgorithm, section: Section) -> None:
    for name, value in section.items():
        recursive_getattr(model, name).data.copy_(value)


# ---- running scales


def normalizer_state(normalizer: VecNormalize) -> dict[str, Tensor]:
    state = {"returns": torch.tensor(normalizer.returns)}
    for name, moments in _moments(normalizer):
        for part in ("mean", "var", "count"):
            state[f"{name}.{part}"] = torch.tensor(getattr(moments, part), dtype=torch.float64)
    return state


def load_normalizer(normalizer: VecNormalize, section: Section) -> None:
    for name, moments in _moments(normalizer):
        moments.mean, moments.var = (section[f"{name}.{part}"].numpy().copy() for part in ("mean", "var"))
        moments.count = float(section[f"{name}.count"])
    if len(section["returns"]) == normalizer.num_envs:  # None in a policy that only acts
        normalizer.returns = section["returns"].numpy().copy()


def _moments(normalizer: VecNormalize) -> Iterator[tuple[str, RunningMeanStd]]:
    yield "reward", normalizer.ret_rms
    if normalizer.norm_obs:
        found = normalizer.obs_rms
        if isinstance(found, dict):
            yield from ((f"obs.{key}", moments) for key, moments in found.items())
        else:
            yield "obs", found


# ---- action noise


def noise_state(noise: ActionNoise | None) -> list[list[float]]:
    """The noise process's state for each environment; none for white noise."""
    return [np.ravel(each.noise_prev).tolist() for each in _drifting(noise)]


def load_noise(noise: ActionNoise | None, state: Any) -> None:
    for each, values in zip(_drifting(noise), state, strict=True):
        each.noise_prev = np.array(values).reshape(each.noise_prev.shape)


def _drifting(noise: ActionNoise | None) -> list[OrnsteinUhlenbeckActionNoise]:
    each = noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]
    return [one for one in each if isinstance(one, OrnsteinUhlenbeckActionNoise)]


# ---- replay


class ReplayRecord:
    """The library's replay as a checkpoint section: its rows `[rows, envs, ...]` in order of writing, cut into
    segments. A full segment never changes: it is written once, and later checkpoints refer to its file."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer
        self.rows = buffer.buffer_size
        self.each = max(1, min(SEGMENT // buffer.n_envs, self.rows // SEGMENTS))
        """Rows of a segment."""
        self.segments: dict[int, Shared] = {}
        self.written = 0

    def arrays(self) -> dict[str, Array]:
        """The library's own arrays by name, [rows, envs, ...]; of a Dict observation by its keys, too."""
        found: dict[str, Array] = {}
        for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
            part: Any = getattr(self.buffer, name)
            found |= {f"{name}.{key}": x for key, x in part.items()} if isinstance(part, dict) else {name: part}
        return found

    def state_dict(self, written: int) -> dict[str, Any]:
        """`written`: rows written since training began."""
        self.written = written
        full = range(self._oldest() // self.each, written // self.each)
        self.segments = {number: self.segments.get(number) or self._segment(number) for number in full}
        return {
            "rows": self.rows,
            "each": self.each,
            "written": written,
            **{f"segment_{number}": segment for number, segment in self.segments.items()},
            **{f"tail.{name}": x for name, x in self._cut(full.stop * self.each, written).items()},
        }

    def load_state_dict(self, section: Section) -> int:
        """Restore a fresh replay bit for bit; returns the number of rows written."""
        if section["rows"] != self.rows:
            held = section["rows"] * self.buffer.n_envs
            raise RequestError(
                f"agent.buffer_size: the checkpoint's replay is for {held:,} transitions, the config's for "
                f"{self.rows * self.buffer.n_envs:,}; give it the size it had, or leave it out with replay=false"
            )
        self.written = written = cast(int, section["written"])
        self.each = cast(int, section["each"])
        for key, part in section.items():
            if isinstance(part, Shared):
                number = int(key.removeprefix("segment_"))
                self._paste((number + 1) * self.each, part.make())
                self.segments[number] = self._segment(number)
                self.segments[number].file = part.file
        self._paste(written, {key.removeprefix("tail."): x for key, x in section.items() if key.startswith("tail.")})
        self.buffer.pos, self.buffer.full = written % self.rows, written >= self.rows
        return written

    def interrupt(self) -> None:
        """Truncate the current episodes, which do not continue after a resume: returns must not be summed across."""
        last = (self.buffer.pos - 1) % self.rows
        self.buffer.timeouts[last] = np.where(self.buffer.dones[last] > 0, self.buffer.timeouts[last], 1.0)

    def _oldest(self) -> int:
        """Number of the oldest row that was not overwritten."""
        return max(0, self.written - self.rows)

    def _segment(self, number: int) -> Shared:
        return Shared(partial(self._cut, number * self.each, (number + 1) * self.each))

    def _cut(self, first: int, end: int) -> dict[str, Tensor]:
        """The rows of [first, end) that are still there, `[rows, envs, ...]`."""
        at = np.arange(max(first, self._oldest()), end) % self.rows
        return {name: torch.from_numpy(x[at]) for name, x in self.arrays().items()}

    def _paste(self, end: int, cut: Mapping[str, Tensor]) -> None:
        """Write back the rows of `_cut` that ended at `end`, except those overwritten since."""
        for name, x in self.arrays().items():
            kept = min(len(cut[name]), max(0, end - self._oldest()))
            x[np.arange(end - kept, end) % self.rows] = cut[name].numpy()[len(cut[name]) - kept :]
