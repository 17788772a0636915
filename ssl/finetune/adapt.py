"""Which parameters are trained: all, the last layers, the head, or low-rank adapters (LoRA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlgym.errors import RequestError

if TYPE_CHECKING:
    from rlgym.config.schema import AdaptConfig
    from rlgym.ssl.models.backbone import Backbone


def adapt(backbone: Backbone, config: AdaptConfig, has_head: bool, seed: int) -> None:
    """Mark the backbone's parameters as trained or frozen, in place; with mode=lora add the LoRA matrices. `has_head`:
    whether there is a new head, which is always trained.
    """
    if config.mode == "full":
        return
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    if config.mode == "head":
        if not has_head:
            raise RequestError("adapt.mode=head: this method adds no head to train; full, last or lora would do")
    elif config.mode == "last":
        for parameter in last_layers(backbone, config.layers):
            parameter.requires_grad_(True)
    else:
        add_lora(backbone, config, seed)


def last_layers(backbone: Backbone, count: int) -> list[nn.Parameter]:
    """Parameters of the last `count` layers, and of the modules after them."""
    prefix = backbone.layers_prefix
    numbers = {
        int(name.removeprefix(prefix).split(".")[0])
        for name, _ in backbone.named_parameters()
        if name.startswith(prefix)
    }
    if not numbers or count > len(numbers):
        raise RequestError(f"adapt.layers={count}: the model has {len(numbers)} layers; fewer would do")
    first = max(numbers) - count + 1
    names = [name for name, _ in backbone.named_parameters()]
    inside = [name for name in names if name.startswith(prefix)]
    behind = names[names.index(inside[-1]) + 1 :]
    wanted = {name for name in inside if int(name.removeprefix(prefix).split(".")[0]) >= first} | set(behind)
    return [parameter for name, parameter in backbone.named_parameters() if name in wanted]


def add_lora(backbone: Backbone, config: AdaptConfig, seed: int) -> None:
    """Add LoRA of rank `rank` to every matrix inside the layers (Hu et al. 2021, arXiv:2106.09685), by peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RequestError(
            'adapt.mode=lora needs a package that is not installed: pip install "rlgym-ssl[lora]"'
        ) from None
    targets = sorted({name.removesuffix(".weight") for name in backbone.matrices()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(
            LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0), backbone
        )


def merge_lora(backbone: Backbone) -> None:
    """Merge the LoRA weights into their matrices, in place."""
    for name, module in lora_layers(backbone):
        module.merge()
        _put(backbone, name, module.get_base_layer())


def take_lora(backbone: Backbone) -> dict[str, tuple[Tensor, Tensor]]:
    """Remove the LoRA weights without merging them, in place: module name -> (A `[rank, in]`, B `[out, rank]`)."""
    found = {}
    for name, module in lora_layers(backbone):
        (adapter,) = module.lora_A
        found[name] = (module.lora_A[adapter].weight.detach(), module.lora_B[adapter].weight.detach())
        _put(backbone, name, module.get_base_layer())
    return found


def lora_layers(backbone: Backbone) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in backbone.named_modules() if isinstance(module, LoraLayer)]


def _put(backbone: Backbone, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(backbone.get_submodule(parent), own, module)
