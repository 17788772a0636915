"""RMSprop over all of a module's parameters as one flat vector, gated on finite numbers, with no read of the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlgym.learner import Section
from rlgym.optim.flat_params import Flat, restore


class FlatRMSprop:
    """RMSprop (Tieleman & Hinton 2012, as `torch.optim.RMSprop`) with clipping of the whole gradient's norm.

        square = alpha * square + (1 - alpha) * gradient^2;  parameter -= learning_rate * gradient / (square^0.5 + eps)

    As with `FlatAdam`, the module's parameters and gradients become views of `parameters` and `gradients` `[weights]`.
    """

    def __init__(self, module: nn.Module, max_grad_norm: float, eps: float, alpha: float = 0.99) -> None:
        self.flat = Flat([dict(module.named_parameters())], aligned=1)
        self.parameters, self.gradients = self.flat.parameters, self.flat.gradients
        self.square = torch.zeros_like(self.parameters)
        self.max_grad_norm, self.eps, self.alpha = max_grad_norm, eps, alpha

    def step(self, loss: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        """As `FlatAdam.step`: a non-finite loss or gradient changes nothing and sets `skipped` to 1."""
        self.flat.zero()
        loss.backward()
        norm, skipped = self.flat.clip(self.max_grad_norm, loss)
        with torch.no_grad():
            gradient = torch.where(skipped > 0, 0.0, self.gradients)
            moved = (1 - self.alpha) * (1 - skipped)
            self.square.lerp_(gradient.square(), moved)
            self.parameters.addcdiv_(gradient, self.square.sqrt().add_(self.eps), value=-learning_rate)
        return norm, skipped

    def state_dict(self) -> Section:
        """The mean squares by parameter name."""
        return {f"{name}.square_avg": view for name, view in self.flat.views(self.square).items()}

    def load_state_dict(self, state: Section) -> None:
        restore(self.state_dict(), state)
