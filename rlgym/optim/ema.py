"""Exponential moving average of the weights, evaluated and kept in place of the last (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rlgym.learner import Section
from rlgym.optim.flat_params import Flat, restore


class Ema:
    """`average <- d * average + (1 - d) * parameters`, where d rises to `decay` as (1 + n) / (10 + n) after n updates:
    a short run is not an average with its own beginning."""

    def __init__(self, flat: Flat, decay: float) -> None:
        self.flat, self.decay = flat, decay
        self.average = flat.parameters.clone()
        self.updates = torch.zeros((), device=self.average.device)

    @torch.no_grad()
    def update(self, skipped: Tensor) -> None:
        """After an optimiser's step; one that was `skipped` (0-d, 1) leaves the average as it was."""
        decay = ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        self.average.lerp_(self.flat.parameters, (1 - decay) * (1 - skipped))
        self.updates.add_(1 - skipped)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The module computes with the average inside, and with its own parameters, to the bit, again afterwards."""
        with torch.no_grad():
            own = self.flat.parameters.clone()
            self.flat.parameters.copy_(self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                self.flat.parameters.copy_(own)

    def state_dict(self) -> Section:
        """The averages under the parameters' names, and how many updates they are of."""
        return self.flat.views(self.average) | {"ema_updates": self.updates}

    def load_state_dict(self, state: Section) -> None:
        restore(self.state_dict(), state)
