"""Experience replay: the latest transitions of all environments, preallocated on the training device.

Each observation is stored once: a step's next observation is the following step's observation; only truncated episodes
keep their final observation in addition. Of stacked frames only the newest is stored; stacks are rebuilt when drawn.
Each environment writes into its own ring, so that the phantom rows of next-step autoreset are never stored.

In a checkpoint, transitions are cut into segments by age. A full segment never changes: it is written once, and later
checkpoints refer to its file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psutil
import torch
from torch import Tensor

from rlgym.agents.common.storage import numpy_dtype, storage_dtype
from rlgym.errors import RequestError, TrainingError
from rlgym.learner import Section, Shared

if TYPE_CHECKING:
    from rlgym.envs.batch import BatchEnv, Step
    from rlgym.envs.spaces import Array, Obs

Batch = dict[str, Any]
"""Transitions: obs and next_obs (leaf -> [batch, *leaf]; of a terminated episode's last transition next_obs means
nothing), action [batch, *action], reward [batch] (discounted sum over n steps), discount [batch] (of the value of
next_obs: 0 where it terminated), next_mask [batch, n] or None."""

SEGMENT = 16_384
"""Transitions of one segment; small replays have smaller segments, at least `SEGMENTS` of them."""
SEGMENTS = 16


class Replay:
    """`capacity` transitions of `env` in all. Rows of a ring: `rows`, one of them the running observation.

    obs      leaf -> [envs, rows, *frame]; action [envs, rows, *action]; reward, terminated, done [envs, rows] float32
    mask     [envs, rows, n] bool, the actions legal in that row's state; None when the environment gives none
    age      [envs, rows] int32, steps since the episode began; None without stacked frames
    slot     [envs, rows] int32, where in `finals` (leaf -> [slots, *frame]) a cut-off episode's last frame lies, or -1
    written  [envs] int64: transitions ever written; transition a lies in row a % rows, the running observation in
             row written % rows

    A place is a transition's index: environment * rows + row.
    """

    def __init__(
        self,
        capacity: int,
        env: BatchEnv,
        action_shape: tuple[int, ...],
        action_dtype: torch.dtype,
        device: torch.device,
        stack: int = 1,
    ) -> None:
        """`stack`: frames that the environment stacks into each observation, along its first axis, newest last.

        RequestError where memory does not suffice.
        """
        self.envs, self.stack, self.device = env.num_envs, stack, device
        self.kept = max(1, capacity // self.envs)
        """Maximum number of transitions to draw from, per environment."""
        self.rows = self.kept + stack  # the current observation, and frames that only the oldest stacks need
        self.in_step = not env.phantoms
        """Whether all rings are at the same row."""
        self.id = env.id
        frames = {leaf.name: (leaf.shape[1:] if stack > 1 else leaf.shape) for leaf in env.leaves}
        dtypes = {leaf.name: storage_dtype(leaf.dtype) for leaf in env.leaves}
        observed = sum(math.prod(frame) * dtypes[name].itemsize for name, frame in frames.items())
        require_memory(capacity, observed + math.prod(action_shape) * action_dtype.itemsize + 20, device)
        try:
            self.obs = {name: self._storage(*frame, dtype=dtypes[name]) for name, frame in frames.items()}
            self.action = self._storage(*action_shape, dtype=action_dtype)
            self.reward, self.terminated, self.done = (self._storage(dtype=torch.float32) for _ in range(3))
            self.age = self._storage(dtype=torch.int32) if stack > 1 else None
            self.slot = self._storage(dtype=torch.int32).fill_(-1)
        except (MemoryError, RuntimeError, ValueError) as error:  # NumPy's, torch's, and NumPy's on absurd sizes
            raise RequestError(
                f"agent.buffer_size={capacity}: {device} has no memory for that many transitions; lower it"
            ) from error
        self.mask: Tensor | None = None
        self.finals = {
            name: torch.zeros((0, *frame), dtype=dtypes[name], device=device) for name, frame in frames.items()
        }
        self.written = np.zeros(self.envs, np.int64)
        self.steps = 0
        """Number of calls of `add`."""
        self.segment_steps = max(1, min(SEGMENT, capacity // SEGMENTS) // self.envs)
        """Calls of `add` in one segment."""
        self._bounds = {0: self.written - (stack - 1)}
        """Segment number -> first transition in each environment, `[envs]`; obsolete ones are dropped."""
        self._segments: dict[int, Shared] = {}
        self._free: list[int] = []
        """Free slots of `finals`."""
        self._slots = 0
        self._ages = np.zeros(self.envs, np.int32)
        self._lanes = np.arange(self.envs)
        on_cpu = device.type == "cpu"
        self._views: dict[str, Any] = {
            name: tensor.numpy() if on_cpu else tensor for name, tensor in (self.obs | self._parts()).items()
        }
        self._host_slot: Array = self._views["slot"] if on_cpu else np.full((self.envs, self.rows), -1, np.int32)

    def _storage(self, *shape: int, dtype: torch.dtype) -> Tensor:
        shape = (self.envs, self.rows, *shape)
        if self.device.type == "cpu":  # NumPy's zeros take memory only once written
            return torch.from_numpy(np.zeros(shape, numpy_dtype(torch.empty(0, dtype=dtype))))
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _parts(self) -> dict[str, Tensor]:
        """The rings' tensors other than observations, by name."""
        return {name: tensor for name in PARTS if (tensor := getattr(self, name, None)) is not None}

    @property
    def nbytes(self) -> int:
        tensors = (*self.obs.values(), *self._parts().values(), *self.finals.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    # ---- writing

    def start(self, obs: Obs, mask: Array | None) -> None:
        """Set the current observations before the first step, after a reset or in mid-episode."""
        self._ages[:] = self.stack - 1
        for back in range(1, self.stack):  # the frames of these first stacks precede the first transition
            rows = self._lanes, (self.written - back) % self.rows
            for name, x in obs.items():
                self._put(name, rows, x[:, -1 - back])
        self._stand(obs, mask)

    def interrupt(self, obs: Obs, mask: Array | None) -> None:
        """Continue from `obs`; episodes whose current observation differs are truncated."""
        stood = {name: x.cpu().numpy() for name, x in self._observations(self._running_rows()).items()}
        moved = np.zeros(self.envs, bool)
        for name, x in stood.items():
            moved |= (x != obs[name].astype(x.dtype)).reshape(self.envs, -1).any(1)
        last = torch.from_numpy(self._lanes * self.rows + (self.written - 1) % self.rows).to(self.device)
        running = (self.written > 0) & (self.done.view(-1)[last].cpu().numpy() == 0)
        cut = np.flatnonzero(moved & running)
        if cut.size:
            self.written[cut] -= 1
            self._put("done", (cut, self.written[cut] % self.rows), np.ones(len(cut), np.float32))
            self._keep_finals(cut, self._newest(stood))
            self.written[cut] += 1
        self._ages[moved] = 0
        self._stand(obs, mask)

    def add(self, action: Array, step: Step) -> None:
        """Store one step of all environments: `action [envs, *action]` as the learner uses it, and its outcome."""
        valid, done = step.valid, step.terminated | step.truncated
        lanes: Any = slice(None) if valid is None else np.flatnonzero(valid)
        rows = self._at(lanes)
        if len(self._free) < self._slots:
            self._drop_finals(rows)
        self._put("action", rows, action[lanes])
        self._put("reward", rows, step.reward[lanes])
        self._put("terminated", rows, step.terminated[lanes])
        self._put("done", rows, done[lanes])
        if step.final_obs is not None:
            cut = step.truncated & ~step.terminated
            if valid is not None:
                cut &= valid
            if np.count_nonzero(cut):
                self._keep_finals(cut.nonzero()[0], self._newest(step.final_obs))
        self.written[lanes] += 1
        if self.age is not None:
            self._ages += 1
            if self.in_step:
                self._begin(done, step.obs)
            elif valid is not None:
                self._begin(~valid, step.obs)
        self._stand(step.obs, step.action_mask)
        self.steps += 1
        if self.steps % self.segment_steps == 0:
            self._bounds[self.steps // self.segment_steps] = self.written.copy()

    def _begin(self, lanes: Array, obs: Obs) -> None:
        """Start new episodes in `lanes [envs] bool`: their stacks repeat the first frame."""
        if not np.count_nonzero(lanes):
            return
        self._ages[lanes] = 0
        for name, x in obs.items():
            if (x[lanes, 0] != x[lanes, -1]).any():
                raise TrainingError(
                    f"{self.id}: the first {self.stack} frames of an episode ({name}) are not all its first one, which "
                    "a replay that keeps each frame once counts on"
                )

    def _at(self, lanes: Any) -> tuple[Any, Any]:
        """Indices of the current rows of `lanes`."""
        if self.in_step:
            return slice(None), int(self.written[0]) % self.rows
        return self._lanes[lanes], self.written[lanes] % self.rows

    def _stand(self, obs: Obs, mask: Array | None) -> None:
        rows = self._at(slice(None))
        for name, frames in self._newest(obs).items():
            self._put(name, rows, frames)
        if self.age is not None:
            self._put("age", rows, self._ages)
        if mask is not None:
            if self.mask is None:
                self._make_mask(mask.shape[1])
            self._put("mask", rows, mask)

    def _make_mask(self, actions: int) -> None:
        self.mask = self._storage(actions, dtype=torch.bool).fill_(True)
        self._views["mask"] = self.mask.numpy() if self.device.type == "cpu" else self.mask

    def _newest(self, obs: Obs) -> Obs:
        """leaf -> [envs, *frame]"""
        return {name: x[:, -1] for name, x in obs.items()} if self.stack > 1 else obs

    def _put(self, name: str, rows: tuple[Any, Any], value: Array) -> None:
        into = self._views[name]
        into[rows] = torch.from_numpy(np.ascontiguousarray(value)).to(into) if isinstance(into, Tensor) else value

    def _set_slots(self, rows: tuple[Any, Any], slots: Array) -> None:
        """Host copy of the slots, which are read at every step."""
        self._put("slot", rows, slots)
        if self._host_slot is not self._views["slot"]:
            self._host_slot[rows] = slots

    def _drop_finals(self, rows: tuple[Any, Any]) -> None:
        """Free the slots of overwritten rows."""
        slots = self._host_slot[rows]
        taken = slots[slots >= 0]
        if taken.size:
            self._free += taken.tolist()
            self._set_slots(rows, np.full(slots.shape, -1, np.int32))

    def _take_slots(self, count: int) -> Array:
        while len(self._free) < count:
            more = max(16, self._slots)
            self.finals = {name: torch.cat([x, x.new_zeros(more, *x.shape[1:])]) for name, x in self.finals.items()}
            self._free += range(self._slots + more - 1, self._slots - 1, -1)
            self._slots += more
        return np.array([self._free.pop() for _ in range(count)], np.int32)

    def _keep_finals(self, lanes: Array, obs: Obs) -> None:
        """Keep the final frames of `lanes`, whose episodes were truncated in the current rows."""
        slots = self._take_slots(len(lanes))
        at = torch.from_numpy(slots).long().to(self.device)
        for name, kept in self.finals.items():
            kept[at] = torch.from_numpy(np.ascontiguousarray(obs[name][lanes])).to(kept)
        self._set_slots((lanes, self.written[lanes] % self.rows), slots)

    # ---- drawing

    def window(self, n_step: int = 1) -> tuple[Array, Array]:
        """The transitions to draw from: a range [first, last) for each environment, both `[envs]`."""
        first = np.maximum(0, self.written - self.kept)
        return first, np.maximum(first, self.written - (n_step - 1))

    def size(self, n_step: int = 1) -> int:
        """Number of transitions to draw from."""
        first, last = self.window(n_step)
        return int((last - first).sum())

    def places(self, first: Array, last: Array) -> Array:
        """Places of the transitions [first, last), environment by environment: int64."""
        counts = last - first
        lane = np.repeat(self._lanes, counts)
        begin = first - (counts.cumsum() - counts)
        place: Array = lane * self.rows + (np.arange(len(lane)) + begin[lane]) % self.rows
        return place

    def draw(self, count: int, generator: torch.Generator, n_step: int = 1) -> Tensor:
        """Draw `count` transitions uniformly, with replacement: places `[count]` int64 for `gather`."""
        first, last = self.window(n_step)
        sizes = last - first
        drawn = torch.randint(int(sizes.sum()), (count,), generator=generator, device=self.device)
        if self.in_step:
            oldest, size = int(first[0]), int(sizes[0])
            if self.envs == 1:  # draw the row directly except at the ring's start: integer division is slow
                return drawn if oldest == 0 else drawn.add_(oldest).remainder_(self.rows)
            return drawn // size * self.rows + (drawn % size + oldest) % self.rows
        ends = torch.from_numpy(sizes.cumsum()).to(self.device)
        lane = torch.searchsorted(ends, drawn, right=True)
        begin = torch.from_numpy(first - (sizes.cumsum() - sizes)).to(self.device)
        return lane * self.rows + (drawn + begin[lane]) % self.rows

    def gather(self, places: Tensor, n_step: int = 1, gamma: float = 1.0) -> Batch:
        """The transitions at `places [batch]`, over `n_step` steps or to the end of their episode.

            reward = sum of gamma^i reward[t + i] over the steps used, discount = gamma^(steps used) * (1 - terminated)

        (Sutton 1988; as in Hessel et al. 2018, arXiv:1710.02298, equation 1.)
        """
        if n_step == 1:
            last, reward = places, _rows(self.reward, places)
            discount = gamma * (1 - _rows(self.terminated, places))
        else:
            lane, row = places // self.rows, places % self.rows
            ahead = torch.arange(n_step, device=self.device)
            steps = lane[:, None] * self.rows + (row[:, None] + ahead) % self.rows
            going = torch.cumprod(1 - self.done.view(-1)[steps[:, :-1]], 1)
            going = torch.cat([torch.ones_like(going[:, :1]), going], 1)
            powers = gamma ** ahead.float()
            reward = (self.reward.view(-1)[steps] * going * powers).sum(1)
            used = going.sum(1).long()
            last = steps.gather(1, used[:, None] - 1).squeeze(1)
            discount = gamma * powers[used - 1] * (1 - _rows(self.terminated, last))
        following = last + 1
        if (self.written >= self.rows).any():  # rings wrap around
            following.sub_((following % self.rows == 0).long(), alpha=self.rows)
        obs, next_obs = self._observations(places), self._observations(following)
        if len(self._free) < self._slots:
            slot = _rows(self.slot, last)
            cut = (slot >= 0).nonzero().squeeze(1)
            if len(cut):
                slot = slot[cut]
                before = self._observations(last[cut]) if self.stack > 1 else {}
                for name, kept in self.finals.items():
                    final = kept.index_select(0, slot)
                    if self.stack > 1:
                        final = torch.cat([before[name][:, 1:], final[:, None]], 1)
                    next_obs[name].index_copy_(0, cut, final)
        next_mask = None
        if self.mask is not None:  # the legal actions of a truncated episode's final state are unknown
            next_mask = _rows(self.mask, following) | (_rows(self.done, last) > 0)[:, None]
        return {
            "obs": obs,
            "action": _rows(self.action, places),
            "reward": reward,
            "next_obs": next_obs,
            "discount": discount,
            "next_mask": next_mask,
        }

    def _observations(self, places: Tensor) -> dict[str, Tensor]:
        """leaf -> [batch, *leaf]; stacks never cross an episode's start: its first frame is repeated."""
        if self.age is None:
            return {name: _rows(x, places) for name, x in self.obs.items()}
        back = torch.arange(self.stack - 1, -1, -1, device=self.device)
        age = self.age.view(-1)[places][:, None]
        row = (places[:, None] % self.rows - torch.minimum(back, age)) % self.rows
        frames = (places // self.rows)[:, None] * self.rows + row
        return {name: x.flatten(0, 1)[frames] for name, x in self.obs.items()}

    def _running_rows(self) -> Tensor:
        """Places of the current observations, `[envs]`."""
        return torch.from_numpy(self._lanes * self.rows + self.written % self.rows).to(self.device)

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """A section: each full segment as a `Shared`, the remainder, and the current observations."""
        oldest = self._oldest()
        for number in [n for n in self._bounds if n + 1 in self._bounds and (self._bounds[n + 1] <= oldest).all()]:
            del self._bounds[number]
            self._segments.pop(number, None)
        # A segment is full one step after its last: until then `interrupt` may truncate its last episode.
        full = [number for number in self._bounds if self.steps > (number + 1) * self.segment_steps]
        for number in full:
            if number not in self._segments:
                self._segments[number] = self._segment(number)
        tail = self._bounds[max(full) + 1] if full else next(iter(self._bounds.values()))
        running = self._running_rows()
        section: dict[str, Any] = {
            "rows": self.rows,
            "steps": self.steps,
            "segment_steps": self.segment_steps,
            "segments": list(self._bounds),
            "bounds": torch.from_numpy(np.stack(list(self._bounds.values()))),
            "written": self.written.tolist(),
            "ages": self._ages.tolist(),
            **{f"segment_{number}": self._segments[number] for number in full},
            **{f"tail.{name}": x for name, x in self._cut(tail, self.written).items()},
            **{f"standing.{name}": x.flatten(0, 1)[running] for name, x in self.obs.items()},
        }
        if self.mask is not None:
            section["standing_mask"] = self.mask.flatten(0, 1)[running]
        return section

    def load_state_dict(self, section: Section) -> None:
        """Restore a fresh replay bit for bit. CheckpointError names a damaged segment."""
        if section["rows"] != self.rows:
            held = (section["rows"] - self.stack) * self.envs
            raise RequestError(
                f"agent.buffer_size: the checkpoint's replay is for {held:,} transitions, the config's for "
                f"{self.kept * self.envs:,}; give it the size it had, or leave it out with replay=false"
            )
        self.steps, self.segment_steps = cast(int, section["steps"]), cast(int, section["segment_steps"])
        self.written[:] = section["written"]
        self._ages[:] = section["ages"]
        self._bounds = dict(zip(section["segments"], section["bounds"].numpy(), strict=True))
        for key, part in section.items():
            if isinstance(part, Shared):
                self._paste(part.make())
                number = int(key.removeprefix("segment_"))
                self._segments[number] = self._segment(number)
                self._segments[number].file = part.file
        self._paste({key.removeprefix("tail."): x for key, x in section.items() if key.startswith("tail.")})
        running = self._running_rows()
        for name, x in self.obs.items():
            x.flatten(0, 1)[running] = section[f"standing.{name}"].to(x)
        if self.age is not None:
            self.age.view(-1)[running] = torch.from_numpy(self._ages).to(self.age)
        if "standing_mask" in section:
            if self.mask is None:
                self._make_mask(section["standing_mask"].shape[1])
            assert self.mask is not None
            self.mask.flatten(0, 1)[running] = section["standing_mask"].to(self.mask)

    def _oldest(self) -> Array:
        """The first transition still in each environment's ring; negative: rows with frames only."""
        oldest: Array = np.maximum(1 - self.stack, self.written - self.rows + 1)
        return oldest

    def _segment(self, number: int) -> Shared:
        return Shared(partial(self._cut, self._bounds[number], self._bounds[number + 1]))

    def _cut(self, first: Array, last: Array) -> dict[str, Tensor]:
        """The transitions of [first, last) still in the rings, environment by environment: every part [transitions,
        ...]; frames of `finals` in the order of the transitions `final_of` they belong to.
        """
        first = np.minimum(np.maximum(first, self._oldest()), last)
        places = torch.from_numpy(self.places(first, last)).to(self.device)
        parts = {f"obs.{name}": x.flatten(0, 1)[places] for name, x in self.obs.items()}
        parts |= {name: x.flatten(0, 1)[places] for name, x in self._parts().items() if name != "slot"}
        slots = self.slot.view(-1)[places].long()
        final_of = (slots >= 0).nonzero().squeeze(1)
        parts |= {f"final.{name}": x[slots[final_of]] for name, x in self.finals.items()}
        return parts | {"final_of": final_of, "first": torch.from_numpy(first), "last": torch.from_numpy(last.copy())}

    def _paste(self, cut: Mapping[str, Tensor]) -> None:
        """Write the result of `_cut` back into the rings."""
        first, last = cut["first"].numpy(), cut["last"].numpy()
        begin = np.minimum(np.maximum(first, self._oldest()), last)  # overwritten transitions are skipped
        held = np.arange(len(cut["reward"])) - np.repeat((last - first).cumsum() - last, last - first)
        needed = torch.from_numpy(held >= np.repeat(begin, last - first))
        places = torch.from_numpy(self.places(begin, last)).to(self.device)
        if "mask" in cut and self.mask is None:
            self._make_mask(cut["mask"].shape[1])
        for name, x in self.obs.items():
            x.flatten(0, 1)[places] = cut[f"obs.{name}"][needed].to(x)
        for name, x in self._parts().items():
            if name in cut:
                x.flatten(0, 1)[places] = cut[name][needed].to(x)
        ended = needed[cut["final_of"]]
        at = needed.cumsum(0)[cut["final_of"]][ended] - 1
        slots = self._take_slots(len(at))
        taken = torch.from_numpy(slots).long().to(self.device)
        for name, kept in self.finals.items():
            kept[taken] = cut[f"final.{name}"][ended].to(kept)
        where = places[at.to(self.device)].cpu().numpy()
        self._set_slots((where // self.rows, where % self.rows), slots)


def require_memory(capacity: int, each: int, device: torch.device) -> None:
    """RequestError where `capacity` transitions of `each` bytes exceed the free memory. Host memory is only taken as a
    replay fills, so this is checked in advance."""
    if device.type == "cpu":
        free = psutil.virtual_memory().available
    elif device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        return
    if capacity * each > max(free, 1 << 28):
        fits = int(0.8 * free / each)
        raise RequestError(
            f"agent.buffer_size={capacity}: that many transitions of {each:,} bytes "
            f"take {capacity * each / 1e9:.1f} GB, "
            f"and {free / 1e9:.1f} GB are free; agent.buffer_size={fits // 1000 * 1000 or max(1, fits)} would do"
        )


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """`[batch, ...]` of `x [envs, rows, ...]` at `places [batch]`: indexing by brackets takes three times as long."""
    return x.flatten(0, 1).index_select(0, places)


PARTS = ("action", "reward", "terminated", "done", "mask", "age", "slot")
