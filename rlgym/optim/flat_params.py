"""Parameters as one vector and their gradients as another: zeroing, the norm, clipping and averaging are one call each.

The parameters are in groups, each a contiguous part of the vectors, for optimisers that treat them differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from rlgym.learner import Section

ALIGNED = 64
"""Alignment of each parameter in bytes. Vectorised kernels need 16, and a compiled function copies anything less
aligned."""


class Group:
    """Some parameters and their gradients, `parameters` and `gradients` `[numbers]`: parts of the flat vectors."""

    def __init__(self, named: Mapping[str, nn.Parameter], aligned: int) -> None:
        self.named = dict(named)
        self.starts: list[int] = []
        self.numbers = 0
        for parameter in self.named.values():
            self.starts.append(self.numbers)
            step = max(1, aligned // parameter.element_size())
            self.numbers += -(-parameter.numel() // step) * step
        self.parameters, self.gradients = torch.empty(0), torch.empty(0)

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of `vector [numbers]` in the parameters' shapes, by name."""
        return {
            name: vector[start : start + parameter.numel()].view(parameter.shape)
            for start, (name, parameter) in zip(self.starts, self.named.items(), strict=True)
        }

    def zeros(self) -> Tensor:
        """A zero vector `[numbers]` for optimiser state."""
        return torch.zeros_like(self.parameters)


class Flat:
    """`parameters` and `gradients` `[numbers]`, of which every parameter and its gradient become views. The module must
    stay on its device. Each parameter starts at a multiple of `aligned` bytes, padded with zeros that have zero
    gradients.
    """

    def __init__(self, groups: Sequence[Mapping[str, nn.Parameter]], aligned: int = ALIGNED) -> None:
        self.groups = [Group(named, aligned) for named in groups]
        every = [parameter for group in self.groups for parameter in group.named.values()]
        assert len({(p.device, p.dtype) for p in every}) == 1, "parameters of one device and one dtype"
        sizes = [group.numbers for group in self.groups]
        self.parameters = torch.zeros(sum(sizes), dtype=every[0].dtype, device=every[0].device)
        self.gradients = torch.zeros_like(self.parameters)
        self.fine, self._not_fine = torch.zeros_like(self.parameters[0]), torch.ones_like(self.parameters[0])
        both = zip(self.groups, self.parameters.split(sizes), self.gradients.split(sizes), strict=True)
        for group, parameters, gradients in both:
            group.parameters, group.gradients = parameters, gradients
            data, grads = group.views(parameters), group.views(gradients)
            for name, parameter in group.named.items():
                data[name].copy_(parameter.data)
                parameter.data, parameter.grad = data[name], grads[name]

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of `vector [numbers]` in the shapes of all parameters, by name."""
        parts = vector.split([group.numbers for group in self.groups])
        return {
            name: view
            for group, part in zip(self.groups, parts, strict=True)
            for name, view in group.views(part).items()
        }

    def zero(self) -> None:
        """Zero the gradients before a batch's first backward pass; later passes accumulate."""
        self.gradients.zero_()

    def clip(self, max_norm: float, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Scale the gradients down to `max_norm`. Returns their norm before, and `skipped`, both 0-d.

        `skipped` is 1 where the gradients or the batch's `loss` (0-d) are not finite, else 0 (on a CPU `fine` itself).
        It stays on the device, so that nothing synchronises until it is logged.
        """
        norm = torch.linalg.vector_norm(self.gradients)
        if norm.device.type == "cpu":
            # On a CPU reading a number costs nothing, and seven calls cost more than the clipping (45 us of a small
            # network's gradient step). In float32, as below: bit-identical.
            size = np.float32(norm.item())
            if max_norm < math.inf:
                factor = np.float32(1) / (size + np.float32(1e-6)) * np.float32(max_norm)
                if factor < 1:
                    self.gradients.mul_(float(factor))
            return norm, self.fine if math.isfinite(size) and math.isfinite(loss.item()) else self._not_fine
        skipped = (~torch.isfinite(norm + loss.detach())).float()
        self.gradients.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm, skipped


def restore(own: Section, state: Section) -> None:
    """Copy a checkpoint's tensors into the views of the same names and shapes."""
    for name, tensor in own.items():
        mine, saved = cast(Tensor, tensor), cast(Tensor, state[name])
        if saved.shape != mine.shape:
            raise ValueError(f"{name} has shape {list(saved.shape)}, and the optimiser's is {list(mine.shape)}")
        mine.copy_(saved)
