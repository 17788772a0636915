"""Reservoir sampling: a uniform sample of all rows ever added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.learner import Section


class Reservoir:
    """At most `capacity` rows (Vitter 1985, doi:10.1145/3147.3165, algorithm R).

    `parts`: name -> an example [1, ...] of a row's tensor.
    """

    def __init__(self, capacity: int, parts: Mapping[str, Tensor]) -> None:
        self.capacity = capacity
        self.seen = 0
        """Number of rows ever added."""
        self.parts = {name: part.new_zeros(capacity, *part.shape[1:]) for name, part in parts.items()}

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Add rows `[n, ...]`: each takes a free place, or replaces another with probability capacity / (rows so
        far)."""
        any_part = next(iter(rows.values()))
        count, device = len(any_part), any_part.device
        if not count:
            return
        number = torch.arange(self.seen, self.seen + count, device=device)
        drawn = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        place = torch.where(number < self.capacity, number, (drawn * (number + 1)).long())
        self.seen += count
        # Of rows that drew the same place the last one stays, in whatever order a device writes.
        order = torch.arange(count, device=device)
        places, which = torch.unique(place, return_inverse=True)
        last = torch.zeros_like(places).scatter_reduce_(0, which, order, "amax")
        last = last[places < self.capacity]
        for name, part in self.parts.items():
            part[place[last]] = rows[name][last]

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw `count` rows uniformly, with replacement."""
        place = torch.randint(len(self), (count,), generator=generator, device=generator.device)
        return {name: part[place] for name, part in self.parts.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "capacity": self.capacity,
            "seen": self.seen,
            **{f"part.{name}": part[: len(self)].clone() for name, part in self.parts.items()},
        }

    def load_state_dict(self, section: Section) -> None:
        held = section["capacity"]
        if held != self.capacity:
            raise RequestError(
                f"agent.reservoir_size={self.capacity}: the checkpoint's reservoir is for {held} moves; "
                "give it the size it had"
            )
        self.seen = cast(int, section["seen"])
        for name, part in self.parts.items():
            part[: len(self)] = cast(Tensor, section[f"part.{name}"]).to(part)
