"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): steps along orthogonalised momentum, matrix by
matrix.

A step along the momentum moves a matrix mostly in its few dominant directions. Muon uses the nearest matrix whose
singular values are all one, so that all directions move equally. For the matrices inside the layers; embeddings, head,
norms and biases use AdamW.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from rlgym.learner import Section
from rlgym.optim.adamw import AdamWSettings, by_decay, moments, trained
from rlgym.optim.flat_params import Flat, restore

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients: steepest slope at 0, at the price of values in about [0.7, 1.2] instead of 1."""
GRAM_STEPS = 5
"""Iterations per Gram matrix; rounding errors grow twelvefold in each and stay below 1e-2 in float32."""


class MuonSettings(AdamWSettings, Protocol):
    muon_learning_rate: float
    momentum: float
    ns_steps: int


class Muon:
    """Muon for the model's matrices, one batch per shape, and AdamW for the rest."""

    def __init__(self, model: Any, config: MuonSettings) -> None:
        """Turns the parameters of a Backbone into views of `flat`. `config.learning_rate` must be resolved."""
        self.config = config
        named = trained(model)
        rows = {name: rows for name, rows in model.matrices().items() if name in named}
        inside = {name: named.pop(name) for name in rows}
        self.flat = Flat([inside, *by_decay(named)])
        self.matrices, *rest = self.flat.groups
        self.moments = moments(rest, config)
        self.momentum, self.direction = self.matrices.zeros(), self.matrices.zeros()
        self.steps = torch.zeros((), device=self.flat.parameters.device)
        # A fused weight holds several matrices (queries, keys, values), orthogonalised separately.
        self.by_shape: dict[tuple[int, int], list[Tensor]] = {}
        for name, view in self.matrices.views(self.direction).items():
            for piece in view.split(rows[name]):
                self.by_shape.setdefault((piece.shape[0], piece.shape[1]), []).append(piece)

    def zero(self) -> None:
        """Zero the gradients before a batch's first backward pass; later passes accumulate."""
        self.flat.zero()

    @torch.no_grad()
    def step(self, scale: float, loss: Tensor) -> tuple[Tensor, Tensor]:
        """One step on the gradients gathered since `zero`, at `scale` x the peak learning rates.

        `loss` (0-d) is the batch's. Returns the gradient's norm before clipping and `skipped`, both 0-d: 1 if the loss
        or a gradient is not finite; parameters, momentum, moments and the step count are then unchanged.
        """
        config = self.config
        norm, skipped = self.flat.clip(config.max_grad_norm, loss)
        self.steps.add_(1)
        for part in self.moments:
            part.step(scale, self.steps, skipped)
        self.steps.sub_(skipped)

        # A skipped gradient is replaced by the momentum, which leaves the momentum unchanged, and the step has length
        # 0.
        gradient = torch.where(skipped.bool(), self.momentum, self.matrices.gradients)
        self.momentum.lerp_(gradient, 1 - config.momentum)
        torch.lerp(gradient, self.momentum, config.momentum, out=self.direction)  # Nesterov momentum
        for (rows, columns), pieces in self.by_shape.items():
            found = orthogonal(torch.stack(pieces), config.ns_steps)
            torch._foreach_copy_(pieces, list(found.mul_(max(1.0, rows / columns) ** 0.5).unbind()))
        length = config.muon_learning_rate * scale * (1 - skipped)
        self.matrices.parameters.mul_(1 - length * config.weight_decay).addcmul_(self.direction, -length)
        return norm, skipped

    def state_dict(self) -> Section:
        """Momentum and moments by parameter name, and the step count."""
        state = {"steps": self.steps}
        state |= {f"{name}.momentum": view for name, view in self.matrices.views(self.momentum).items()}
        return state | {name: view for part in self.moments for name, view in part.tensors().items()}

    def load_state_dict(self, state: Section) -> None:
        restore(self.state_dict(), state)


def orthogonal(batch: Tensor, steps: int) -> Tensor:
    """Map each matrix `U S V'` of `[batch, rows, columns]` close to `U V'`: singular values between 0.7 and 1.2.

    `steps` Newton-Schulz iterations `X <- aX + b(XX')X + c(XX')(XX')X`, in bfloat16 on a GPU (as published) and in
    float32 elsewhere. The smallest singular values, below a hundredth of the norm, stay smaller.
    """
    x = batch / torch.linalg.matrix_norm(batch, keepdim=True).clamp(min=1e-7)
    if batch.shape[-2] > batch.shape[-1]:
        x = x.mT
    if batch.is_cuda:
        x = _newton_schulz(x.bfloat16(), steps)
    elif x.shape[-1] >= 2 * x.shape[-2]:
        x = _by_gram(x, steps)
    else:
        x = _newton_schulz(x, steps)
    return x.mT if batch.shape[-2] > batch.shape[-1] else x


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """The iterations as written, on `[batch, short, long]`."""
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor, steps: int) -> Tensor:
    """The same on the Gram matrix `G = XX'` `[batch, short, short]`, using X twice in five iterations. Each iteration
    is `X <- PX` with `P = aI + bG + cGG`, hence `G <- PGP`; the result is the product of all P, times X. Half the
    arithmetic if one side is four times the other.
    """
    a, b, c = QUINTIC
    for done in range(0, steps, GRAM_STEPS):
        gram = x @ x.mT
        product = torch.eye(x.shape[-2], device=x.device, dtype=x.dtype).expand_as(gram)
        last = min(GRAM_STEPS, steps - done) - 1
        for step in range(last + 1):
            power = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            product = torch.baddbmm(product, power, product, beta=a)
            if step < last:
                half = torch.baddbmm(gram, power, gram, beta=a)
                gram = torch.baddbmm(half, half, power, beta=a)
        x = product @ x
    return x
