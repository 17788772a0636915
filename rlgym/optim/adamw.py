"""AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over flat vectors, gated on finite numbers on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from rlgym.learner import Section
from rlgym.optim.flat_params import Flat, Group, restore


class AdamWSettings(Protocol):
    """The hyper-parameters used here; `learning_rate` must be resolved."""

    learning_rate: float | None
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    max_grad_norm: float


class Moments:
    """AdamW's moments of a group of parameters, and its step."""

    def __init__(self, group: Group, config: AdamWSettings, weight_decay: float) -> None:
        assert config.learning_rate is not None, "settled before"
        self.group, self.config, self.weight_decay = group, config, weight_decay
        self.learning_rate = config.learning_rate
        self.first, self.second = group.zeros(), group.zeros()

    def step(self, scale: float, steps: Tensor, skipped: Tensor) -> None:
        """Step at `scale` x the peak learning rate. `steps` (0-d) includes this one."""
        # The kernel of torch.optim.AdamW(fused=True), with its GradScaler's found_inf.
        torch._fused_adamw_(
            [self.group.parameters],
            [self.group.gradients],
            [self.first],
            [self.second],
            [],
            [steps],
            lr=self.learning_rate * scale,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            weight_decay=self.weight_decay,
            eps=self.config.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=skipped,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Both moments by the parameters' names."""
        first = {f"{name}.exp_avg": view for name, view in self.group.views(self.first).items()}
        return first | {f"{name}.exp_avg_sq": view for name, view in self.group.views(self.second).items()}


class AdamW:
    """All parameters under AdamW, weight decay on matrices (two dimensions and more) only."""

    def __init__(self, module: nn.Module, config: AdamWSettings) -> None:
        """Turns the module's parameters into views of `flat`. `config.learning_rate` must be resolved."""
        self.config = config
        decayed, plain = by_decay(trained(module))
        self.flat = Flat([decayed, plain])
        self.moments = moments(self.flat.groups, config)
        self.steps = torch.zeros((), device=self.flat.parameters.device)

    def zero(self) -> None:
        """Zero the gradients before a batch's first backward pass; later passes accumulate."""
        self.flat.zero()

    @torch.no_grad()
    def step(self, scale: float, loss: Tensor) -> tuple[Tensor, Tensor]:
        """One step on the gradients gathered since `zero`, at `scale` x the peak learning rate.

        `loss` (0-d) is the batch's. Returns the gradient's norm before clipping and `skipped`, both 0-d: 1 if the loss
        or a gradient is not finite; parameters, moments and the step count are then unchanged.
        """
        norm, skipped = self.flat.clip(self.config.max_grad_norm, loss)
        self.steps.add_(1)
        for part in self.moments:
            part.step(scale, self.steps, skipped)
        self.steps.sub_(skipped)
        return norm, skipped

    def state_dict(self) -> Section:
        """Moments by parameter name, and the step count."""
        return {"steps": self.steps} | {name: view for part in self.moments for name, view in part.tensors().items()}

    def load_state_dict(self, state: Section) -> None:
        restore(self.state_dict(), state)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name; frozen ones must not decay."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def by_decay(named: Mapping[str, nn.Parameter]) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The matrices, with weight decay, and the vectors, without."""
    decayed = {name: parameter for name, parameter in named.items() if parameter.ndim >= 2}
    return decayed, {name: parameter for name, parameter in named.items() if parameter.ndim < 2}


def moments(groups: list[Group], config: AdamWSettings) -> list[Moments]:
    """AdamW for the two groups of `by_decay`."""
    decays = (config.weight_decay, 0.0)
    both = zip(groups, decays, strict=True)
    return [Moments(group, config, decay) for group, decay in both if group.numbers]
