"""Adam over all of a module's parameters as one flat vector, gated on finite numbers, with no read of the device.

A small network pays per call, not per weight: one vector instead of a dozen tensors makes zeroing, the gradient's norm,
the clipping and Adam one call each (measured on 2 x 64 x 64: 1.3 ms of an update's minibatch become 0.05).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlgym.learner import Section
from rlgym.optim.flat_params import Flat, restore


class FlatAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) with clipping of the whole gradient's norm.

    The module's parameters and their gradients become views of `self.parameters` and `self.gradients` `[weights]`; keep
    it on its device from then on.
    """

    def __init__(
        self, module: nn.Module, max_grad_norm: float, eps: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.flat = Flat([dict(module.named_parameters())], aligned=1)  # a few thousand weights, without padding
        self.parameters, self.gradients = self.flat.parameters, self.flat.gradients
        self.first, self.second = torch.zeros_like(self.parameters), torch.zeros_like(self.parameters)
        self.steps = torch.zeros((), device=self.parameters.device)
        self.max_grad_norm, self.eps, self.betas = max_grad_norm, eps, betas

    def step(self, loss: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Back-propagate the 0-d `loss` and step. Returns the gradient's norm before clipping and `skipped`, both 0-d.

        A non-finite loss or gradient leaves parameters, moments and the step count unchanged and sets `skipped` to 1;
        this is decided on the device, without synchronising.
        """
        self.flat.zero()
        loss.backward()
        return self.apply(loss, learning_rate)

    def apply(self, loss: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        """`step` with the current `gradients`."""
        norm, skipped = self.flat.clip(self.max_grad_norm, loss)
        # The kernel of torch.optim.Adam(fused=True), with its GradScaler's found_inf; called directly, since the
        # optimiser class costs ten times the kernel here (88 us against 8).
        torch._fused_adam_(
            [self.parameters],
            [self.gradients],
            [self.first],
            [self.second],
            [],
            [self.steps.add_(1)],
            lr=learning_rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=skipped,
        )
        if skipped is not self.flat.fine:
            self.steps.sub_(skipped)
        return norm, skipped

    def state_dict(self) -> Section:
        """Moments by parameter name, and the step count."""
        state: dict[str, Tensor] = {"steps": self.steps}
        state |= {f"{name}.exp_avg": view for name, view in self.flat.views(self.first).items()}
        return state | {f"{name}.exp_avg_sq": view for name, view in self.flat.views(self.second).items()}

    def load_state_dict(self, state: Section) -> None:
        restore(self.state_dict(), state)
