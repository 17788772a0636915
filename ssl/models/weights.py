"""Converts parameters to and from the names and layout of `transformers`. Ours are laid out for speed: queries, keys
and values fused in one matrix, `[out, in]` throughout. Each `Weight` lists which of theirs, in which order of rows,
form one of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlgym.errors import RequestError


@dataclass(frozen=True)
class Weight:
    own: str
    theirs: tuple[str, ...]
    """Their parameters, stacked by rows in ours; the same name if there is only one."""
    rows: tuple[int, ...] = ()
    """Rows of each of theirs; empty if there is only one."""
    transposed: bool = False
    """Whether theirs is `[in, out]`, as in GPT-2's Conv1D."""


# Buffers, and parts without a counterpart here, found in published files.
_IGNORED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".position_ids", "cls.seq_relationship.")
_HEADS = ("lm_head.weight", "decoder.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


def to_theirs(module: nn.Module, weights: Iterable[Weight]) -> dict[str, Tensor]:
    """Their names -> tensors in separate memory, on the CPU."""
    own = dict(module.named_parameters())
    state: dict[str, Tensor] = {}
    for weight in weights:
        tensor = own[weight.own].detach().cpu()
        parts = tensor.split(list(weight.rows)) if weight.rows else (tensor,)
        for name, part in zip(weight.theirs, parts, strict=True):
            state[name] = (part.t() if weight.transposed else part).clone(memory_format=torch.contiguous_format)
    return state


@torch.no_grad()
def from_theirs(module: nn.Module, weights: Iterable[Weight], state: Mapping[str, Tensor]) -> None:
    """Copy their tensors into the module; all must be present in the right shape, with none left over."""
    own = dict(module.named_parameters())
    used: set[str] = set()
    for weight in weights:
        missing = [name for name in weight.theirs if name not in state]
        if missing:
            raise RequestError(f"the weights lack {missing[0]}: they are of another architecture or another depth")
        parts = [state[name] for name in weight.theirs]
        joined = torch.cat([part.t() if weight.transposed else part for part in parts])
        target = own[weight.own]
        if joined.shape != target.shape:
            found, wanted = "x".join(map(str, joined.shape)), "x".join(map(str, target.shape))
            raise RequestError(f"{' + '.join(weight.theirs)}: {found} where the model has {wanted}")
        target.copy_(joined)
        used.update(weight.theirs)
    left = [
        name for name in state if name not in used and name not in _HEADS and not any(part in name for part in _IGNORED)
    ]
    if left:
        raise RequestError(f"the model has no place for {left[0]}: the weights are of another architecture or depth")
