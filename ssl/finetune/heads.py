"""From hidden states to outputs: pooling, and the head of the layout in `transformers`, if any."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.bert import Bert
from rlgym.ssl.models.fused import gelu
from rlgym.ssl.models.modernbert import ModernBert


def pool(hidden: Tensor, real: Tensor, how: str) -> Tensor:
    """Pool `hidden [rows, time, width]` over the `real` tokens to `[rows, width]`."""
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), real.sum(1) - 1]
    share = real.to(hidden.dtype)
    return (hidden * share[..., None]).sum(1) / share.sum(1, keepdim=True)


class Head(nn.Module):
    """`[rows, width]` -> `[rows, outputs]`. The layers depend on the backbone's layout, to match transformers' classes:
    BERT's pooler after `cls`, ModernBERT's prediction head, a decoder's plain `score`."""

    def __init__(self, backbone: Backbone, outputs: int, pooling: str, seed: int) -> None:
        super().__init__()
        width = backbone.width
        self.kind = kind_of(backbone, pooling)
        if self.kind == "pooler":
            self.dense = nn.Linear(width, width)
        elif self.kind == "prediction":
            self.dense = nn.Linear(width, width, bias=False)
            self.norm = nn.LayerNorm(width, bias=False)
        self.out = nn.Linear(width, outputs, bias=self.kind != "score")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0.0, 0.02, generator=generator)
                else:
                    parameter.fill_(float(name == "norm.weight"))
            if self.kind == "prediction" and isinstance(backbone, ModernBert):  # its own was pretrained, too
                self.dense.weight.copy_(backbone.head.dense.weight)
                self.norm.weight.copy_(backbone.head.norm.weight)

    def forward(self, pooled: Tensor) -> Tensor:
        if self.kind == "pooler":
            pooled = torch.tanh(self.dense(pooled))
        elif self.kind == "prediction":
            pooled = self.norm(gelu(self.dense(pooled)))
        found: Tensor = self.out(pooled)
        return found


def kind_of(backbone: Backbone, pooling: str) -> str:
    if isinstance(backbone, Bert) and pooling == "cls":
        return "pooler"
    if isinstance(backbone, ModernBert):
        return "prediction"
    return "score" if backbone.causal and pooling == "last" else "linear"


def resolve_pooling(config: Any, causal: bool) -> str:
    """Resolve `method.pooling=auto`: the mean for encoders, the last token for decoders, which has seen all others."""
    if config.pooling == "auto":
        config.pooling = "last" if causal else "mean"
    return str(config.pooling)
