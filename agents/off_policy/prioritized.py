"""Proportional prioritised replay (Schaul et al. 2016, arXiv:1511.05952): draws in proportion to the TD error.

Transition i is drawn with probability P(i) = p_i^alpha / sum_k p_k^alpha, p_i = |TD error| + epsilon (section 3.3); a
new one enters with the largest priority seen so far. The loss weighs it by (N P(i))^-beta over the largest such weight
of its minibatch, which undoes the bias as beta goes to 1 (section 3.4).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlgym.agents.off_policy.replay import Replay
from rlgym.errors import RequestError
from rlgym.learner import Section
from rlgym.training.schedules import factor

EPSILON = 1e-6
"""Added to |TD error|, so that every transition keeps a chance of being drawn."""
TOP = 16_384
"""Largest size of the top row of the sum tree: summing it costs less than further levels."""


class Priorities:
    """The priorities of a replay's places, in a tree of sums. Only places in the latest `draw`'s window have positive
    priority: overwritten, incomplete (over n steps) and empty places have 0.

    levels   the first: p^alpha by place; each other: sums of two of the one before; every one `[nodes]`
    largest  0-d, the largest p^alpha so far
    """

    def __init__(self, replay: Replay, alpha: float) -> None:
        self.replay, self.alpha = replay, alpha
        # Sums of a million float32 lose small terms; Apple's devices have no float64.
        self.dtype = torch.float32 if replay.device.type == "mps" else torch.float64
        places = replay.envs * replay.rows
        depth = max(0, math.ceil(math.log2(places / TOP)))
        top = math.ceil(places / 2**depth)
        self.levels = [
            torch.zeros(top * 2**above, dtype=self.dtype, device=replay.device) for above in range(depth, -1, -1)
        ]
        self.largest = torch.ones((), dtype=self.dtype, device=replay.device)
        self._first, self._last = (np.zeros(replay.envs, np.int64) for _ in range(2))
        self._latest = torch.zeros(places, dtype=torch.int64, device=replay.device)
        """Scratch space of `update`: for each place, the last given transition."""

    def draw(
        self, count: int, batch_size: int, generator: torch.Generator, beta: float, n_step: int = 1
    ) -> tuple[Tensor, Tensor]:
        """`count` transitions for minibatches of `batch_size`: places `[count]` for `Replay.gather`, weights `[count]`
        float32 in (0, 1], of each minibatch relative to its largest.

        Each minibatch is stratified: one transition from each of `batch_size` equal shares of all priority (appendix
        B.2.1).
        """
        self._follow(n_step)
        device = self.replay.device
        strata = torch.arange(batch_size, device=device).repeat(count // batch_size)
        share = torch.rand(count, generator=generator, device=device, dtype=self.dtype)
        top = self.levels[-1]
        sums = top.cumsum(0)
        total = sums[-1]
        mass = torch.minimum((strata + share) * (total / batch_size), total * (1 - torch.finfo(self.dtype).eps))
        place = torch.searchsorted(sums, mass, right=True)
        # Parallel sums on a GPU may be non-monotonic in the last bit: a draw must not fall on a node with priority 0.
        place = torch.where(top[place] > 0, place, top.argmax())
        mass = (mass - (sums[place] - top[place])).clamp(min=0)
        for level in reversed(self.levels[:-1]):
            left, right = level.view(-1, 2)[place].unbind(1)
            goes_right = (mass >= left) & (right > 0)
            mass = torch.where(goes_right, mass - left, mass)
            place = 2 * place + goes_right
        weight = (self.replay.size(n_step) * self.levels[0][place] / total) ** -beta
        weight = weight.view(-1, batch_size)
        return place, (weight / weight.amax(1, keepdim=True)).flatten().float()

    def update(self, places: Tensor, errors: Tensor) -> None:
        """Set the priorities of drawn transitions from their TD errors `[count]` (absolute values are taken), in the
        order of learning: for a repeated place the last one counts."""
        priority = (errors.detach().abs().to(self.dtype) + EPSILON) ** self.alpha
        order = torch.arange(len(places), device=places.device)
        self._latest.scatter_reduce_(0, places, order, "amax", include_self=False)
        self.levels[0][places] = priority[self._latest[places]]
        self.largest = torch.maximum(self.largest, priority.amax())
        self._sum_up(places)

    def _follow(self, n_step: int) -> None:
        """Move the leaves to the replay's window: leaving places get 0, entering ones the largest priority."""
        first, last = self.replay.window(n_step)
        left = self.replay.places(self._first, np.minimum(first, self._last))
        undone = self.replay.places(np.minimum(last, self._last), self._last)  # only a longer n_step shrinks the window
        entered = self.replay.places(np.minimum(np.maximum(self._last, first), last), last)
        self._first, self._last = first, last
        changed = torch.from_numpy(np.concatenate([left, undone, entered])).to(self.replay.device)
        if not len(changed):
            return
        gone = len(left) + len(undone)
        self.levels[0][changed[:gone]] = 0
        self.levels[0][changed[gone:]] = self.largest
        self._sum_up(changed)

    def _sum_up(self, places: Tensor) -> None:
        """Recompute all nodes above `places` from their children; no differences, so that rounding errors do not
        accumulate."""
        for below, level in pairwise(self.levels):
            pairs, places = below.view(-1, 2), places // 2
            if len(places) > len(level):
                torch.add(pairs[:, 0], pairs[:, 1], out=level)
            else:
                left, right = pairs[places].unbind(1)
                level[places] = left + right

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The window's priorities, environment by environment; the sums are recomputed on load."""
        places = torch.from_numpy(self.replay.places(self._first, self._last)).to(self.replay.device)
        return {
            "priorities": self.levels[0][places],
            "priority_largest": self.largest,
            "priority_first": self._first.tolist(),
            "priority_last": self._last.tolist(),
        }

    def load_state_dict(self, section: Section) -> None:
        """Restore bit for bit; called after the replay's own `load_state_dict`."""
        if "priorities" not in section:
            raise RequestError(
                "agent: the checkpoint's replay has no priorities, which the config's agent draws by; leave it out "
                "with replay=false"
            )
        self._first, self._last = (np.array(section[f"priority_{end}"], np.int64) for end in ("first", "last"))
        places = torch.from_numpy(self.replay.places(self._first, self._last)).to(self.replay.device)
        self.levels[0].zero_()
        self.levels[0][places] = section["priorities"].to(self.levels[0])
        self.largest = section["priority_largest"].to(self.largest)
        self._sum_up(torch.arange(len(self.levels[0]), device=self.replay.device))


def annealed(beta: float, step: int, total: int) -> float:
    """Linear schedule of beta to 1 at `total` (section 3.4)."""
    return 1.0 - (1.0 - beta) * factor("linear", step, total)
