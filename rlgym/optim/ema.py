"""Exponential moving average of the weights, evaluated and saved instead of the last weights (Polyak & Juditsky
1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rlgym.learner import Section
from rlgym.optim.flat_params import Flat, restore


class Ema:
    """`average <- d * average + (1 - d) * parameters`, where d rises to `decay` as (1 + n) / (10 + n) after n updates:
    so that short runs do not average in their initial weights."""

    def __init__(self, flat: Flat, decay: float) -> None:
        self.flat, self.decay = flat, decay
        self.average = flat.parameters.clone()
        self.updates = torch.zeros((), device=self.average.device)

    @torch.no_grad()
    def update(self, skipped: Tensor) -> None:
        """Update after an optimiser's step; a `skipped` one (0-d, 1) leaves the average unchanged."""
        decay = ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        self.average.lerp_(self.flat.parameters, (1 - decay) * (1 - skipped))
        self.updates.add_(1 - skipped)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Use the average inside the context; the module's own parameters are restored bit for bit afterwards."""
        with torch.no_grad():
            own = self.flat.parameters.clone()
            self.flat.parameters.copy_(self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                self.flat.parameters.copy_(own)

    def state_dict(self) -> Section:
        """The averages by parameter name, and the number of updates."""
        return self.flat.views(self.average) | {"ema_updates": self.updates}

    def load_state_dict(self, state: Section) -> None:
        restore(self.state_dict(), state)
