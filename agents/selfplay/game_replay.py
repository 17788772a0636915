"""A ring buffer of positions from finished games, preallocated on the training device.

A ring of segments: when it is full, the oldest segment is dropped as a whole. A full segment never changes before that,
so that a checkpoint writes it once and later ones refer to its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.learner import Section, Shared

if TYPE_CHECKING:
    from rlgym.games.game import Game

Positions = dict[str, Tensor]
"""position [n, words] int64; policy [n, actions] float32, the search's improved policy; outcome [n] float32, the final
result of the player to move; value [n] float32, the search's value; full [n] bool, whether it was a full search."""

SEGMENTS = 16


class GameReplay:
    """At most `capacity` positions of `game`, rounded up to whole segments."""

    def __init__(self, game: Game, capacity: int, device: torch.device) -> None:
        self.segment = -(-capacity // SEGMENTS)
        self.capacity = self.segment * SEGMENTS
        self.device = device
        self.written = 0
        """Number of positions ever added; the k-th is at k % capacity."""
        self.parts = self.storage(game)
        self._shared: dict[int, Shared] = {}

    def storage(self, game: Game) -> Positions:
        """Tensors kept for each position."""
        return {
            "position": torch.zeros(self.capacity, game.words, dtype=torch.int64, device=self.device),
            "policy": torch.zeros(self.capacity, game.actions, device=self.device),
            "outcome": torch.zeros(self.capacity, device=self.device),
            "value": torch.zeros(self.capacity, device=self.device),
            "full": torch.zeros(self.capacity, dtype=torch.bool, device=self.device),
        }

    @property
    def oldest(self) -> int:
        """Number of the oldest position still held."""
        return max(0, -(-(self.written - self.capacity) // self.segment) * self.segment)

    def __len__(self) -> int:
        return self.written - self.oldest

    def add(self, positions: Positions) -> None:
        for cut in zip(*(positions[name].split(self.segment) for name in self.parts), strict=True):
            count = len(cut[0])
            place = torch.arange(self.written, self.written + count, device=self.device) % self.capacity
            for part, new in zip(self.parts.values(), cut, strict=True):
                part[place] = new
            self.written += count

    def draw(self, count: int, generator: torch.Generator) -> Positions:
        """Draw `count` positions uniformly, with replacement."""
        found = torch.randint(self.oldest, self.written, (count,), generator=generator, device=self.device)
        return self.at(found)

    def at(self, numbers: Tensor) -> Positions:
        place = numbers % self.capacity
        return {name: part[place] for name, part in self.parts.items()}

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Each full segment as a `Shared`, and the remainder."""
        first, last = self.oldest // self.segment, self.written // self.segment
        self._shared = {
            n: self._shared.get(n) or Shared(partial(self._cut, n * self.segment, (n + 1) * self.segment))
            for n in range(first, last)
        }
        tail = self._cut(last * self.segment, self.written)
        return {
            "capacity": self.capacity,
            "written": self.written,
            **{f"segment_{n}": shared for n, shared in self._shared.items()},
            **{f"tail.{name}": part for name, part in tail.items()},
        }

    def load_state_dict(self, section: Section) -> None:
        """Restore a fresh replay. CheckpointError names a damaged segment."""
        if section["capacity"] != self.capacity:
            raise RequestError(
                f"agent.buffer_size: the checkpoint's replay is for {section['capacity']:,} positions, the config's "
                f"for {self.capacity:,}; give it the size it had, or leave it out with replay=false"
            )
        self.written = cast(int, section["written"])
        for key, part in section.items():
            if isinstance(part, Shared):
                number = int(key.removeprefix("segment_"))
                self._paste(number, part.make())
                self._shared[number] = Shared(
                    partial(self._cut, number * self.segment, (number + 1) * self.segment), part.file
                )
        tail = {key.removeprefix("tail."): cast(Tensor, x) for key, x in section.items() if key.startswith("tail.")}
        self._paste(self.written // self.segment, tail)

    def _cut(self, begin: int, end: int) -> Positions:
        """Positions [begin, end) of one segment; a copy."""
        place = begin % self.capacity
        return {name: part[place : place + end - begin].clone() for name, part in self.parts.items()}

    def _paste(self, number: int, cut: Mapping[str, Tensor]) -> None:
        place = number * self.segment % self.capacity
        for name, part in self.parts.items():
            part[place : place + len(cut[name])] = cut[name].to(part)
