"""Loads a checkpoint's section into a module, with errors that name differing parts."""

from __future__ import annotations

from torch import Tensor, nn

from rlgym.errors import RequestError
from rlgym.learner import Section


def load_module(module: nn.Module, section: Section) -> None:
    """Copy the tensors of `section` into `module` by name; RequestError names those that do not fit."""
    own = module.state_dict()
    differing = [f"{name} (only in the checkpoint)" for name in section if name not in own]
    for name, tensor in own.items():
        saved = section.get(name)
        if not isinstance(saved, Tensor):
            differing.append(f"{name} (only in the config's network)")
        elif saved.shape != tensor.shape:
            differing.append(f"{name} ({list(saved.shape)} saved, {list(tensor.shape)} by the config)")
    if differing:
        raise RequestError(
            "the checkpoint's network is not the one that the config describes: "
            + ", ".join(differing[:6])
            + (f" and {len(differing) - 6} more" if len(differing) > 6 else "")
            + "; give the network the shape it was trained with"
        )
    module.load_state_dict({name: section[name] for name in own})


def load_finite(module: nn.Module, section: Section) -> None:
    """`load_module` for a finished model's weights; RequestError for NaN or infinite values."""
    load_module(module, section)
    for name, parameter in module.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise RequestError(
                f"the checkpoint is damaged: {name} holds NaN or infinite values; checkpoint=STEP takes another"
            )
