"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): a pre-norm encoder with RoPE, a gated MLP, no biases, and
alternating layers of local and global attention.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.ssl.models.attention import Cache, Pattern, attend, window
from rlgym.ssl.models.backbone import Backbone, Embedding, Linear
from rlgym.ssl.models.fused import gelu
from rlgym.ssl.models.machine_layer import layer as machine_layer
from rlgym.ssl.models.rope import rope_tables, rotate
from rlgym.ssl.models.sizes import dimensions
from rlgym.ssl.models.weights import Weight

if TYPE_CHECKING:
    from rlgym.ssl.config import ModernBertModel

THETA = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}

Sight = tuple[Pattern, tuple[Tensor, Tensor]]
"""Attention and rotary tables of one kind of layer."""


class Embeddings(nn.Module):
    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.tok_embeddings = Embedding(vocab_size, width)
        self.norm = nn.LayerNorm(width, bias=False)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.Wqkv = Linear(width, 3 * width, bias=False)
        self.Wo = Linear(width, width, bias=False)

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        batch, time, width = x.shape
        shape, tables = sight
        qkv = self.Wqkv(x).view(batch, time, 3 * self.heads, width // self.heads)
        both, value = qkv.split([2 * self.heads, self.heads], dim=2)
        query, key = rotate(both, *tables).to(value.dtype).transpose(1, 2).chunk(2, 1)
        dropout = self.dropout if self.training else 0.0
        mixed: Tensor = self.Wo(attend(query, key, value.transpose(1, 2), shape, dropout))
        return F.dropout(mixed, dropout) if dropout else mixed


class MLP(nn.Module):
    """GeGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.Wi = Linear(width, 2 * inner, bias=False)
        self.Wo = Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.Wi(x).chunk(2, -1)
        x = gelu(value) * gate
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        out: Tensor = self.Wo(x)
        return out


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float, first: bool) -> None:
        super().__init__()
        # The first layer's input is already normalised by the embedding's norm.
        self.attn_norm: nn.Module = nn.Identity() if first else nn.LayerNorm(width, bias=False)
        self.attn = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp = MLP(width, inner, dropout)

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        shape, (cos, sin) = sight
        if shape.kernels:
            first = None if isinstance(self.attn_norm, nn.Identity) else self.attn_norm
            return machine_layer(
                x,
                (first, self.attn.Wqkv, self.attn.Wo),
                (self.mlp_norm, self.mlp.Wi, self.mlp.Wo),
                before=True,
                heads=self.attn.heads,
                activation="geglu",
                sees=shape.sees(x.shape[1]),
                tables=(cos[:, 0], sin[:, 0]),
            )
        x = x + self.attn(self.attn_norm(x), sight)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Body(nn.Module):
    def __init__(self, config: ModernBertModel, vocab_size: int) -> None:
        super().__init__()
        d = dimensions(config)
        self.embeddings = Embeddings(vocab_size, d.width)
        self.layers = nn.ModuleList(
            Layer(d.width, d.heads, d.inner, config.dropout, first=index == 0) for index in range(d.layers)
        )
        self.final_norm = nn.LayerNorm(d.width, bias=False)


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width, bias=False)


class Decoder(nn.Module):
    """The bias of the logits; the weight is tied to the embedding."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(vocab_size))


class ModernBert(Backbone):
    causal = False
    layers_prefix = "model.layers."

    def __init__(self, config: ModernBertModel, tokens: int, vocab_size: int) -> None:
        super().__init__()
        self.config, self.tokens, self.vocab_size, self.block_size = config, tokens, vocab_size, config.block_size
        d = dimensions(config)
        self.width, self.head_dim = d.width, d.head_dim
        self.model = Body(config, vocab_size)
        self.head = Head(self.width)
        self.decoder = Decoder(vocab_size)
        self.kinds = [
            "sliding_attention" if index % config.global_attn_every_n_layers else "full_attention"
            for index in range(d.layers)
        ]
        for name, table in self.tables().items():
            self.register_buffer(name, table, persistent=False)

    def tables(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for kind, theta in THETA.items():
            found[f"{kind}_cos"], found[f"{kind}_sin"] = rope_tables(self.block_size, self.head_dim, theta)
        return found

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        body, time = self.model, tokens.shape[1]
        everything = self.pattern(tokens, documents, cache)
        near = window(everything, time, self.config.local_attention // 2, tokens.device)
        sights: dict[str, Sight] = {}
        for kind, shape in (("full_attention", everything), ("sliding_attention", near)):
            # RoPE depends on distances only: one table serves all rows, wherever documents begin.
            cos, sin = self.get_buffer(f"{kind}_cos"), self.get_buffer(f"{kind}_sin")
            sights[kind] = shape, (cos[:time, None], sin[:time, None])
        x: Tensor = body.embeddings.norm(body.embeddings.tok_embeddings(tokens))
        if self.config.dropout:
            x = F.dropout(x, self.config.dropout, self.training)
        for kind, layer in zip(self.kinds, body.layers, strict=True):
            x = layer(x, sights[kind])
        hidden: Tensor = body.final_norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        x = self.head.norm(gelu(self.head.dense(hidden)))
        return F.linear(x, self.embedding(), self.decoder.bias)

    def embedding(self) -> Tensor:
        return self.model.embeddings.tok_embeddings.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal(0, 0.02) truncated at two deviations, output projections scaled by 1 / sqrt(2 layers); biases 0."""
        scale = 1 / math.sqrt(2 * len(self.kinds))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 * scale if name.endswith(("Wo.weight", "head.dense.weight")) else 0.02
                nn.init.trunc_normal_(parameter, 0.0, std, -2 * std, 2 * std, generator)
            else:
                nn.init.constant_(parameter, float(name.endswith("norm.weight")))
        for name, table in self.tables().items():
            self.get_buffer(name).copy_(table)

    def weights(self) -> list[Weight]:
        return [Weight(name, (name,)) for name, _ in self.named_parameters()]

    def matrices(self) -> dict[str, tuple[int, ...]]:
        found = super().matrices()
        for name, (rows, *_) in found.items():
            if name.endswith("Wqkv.weight"):
                found[name] = (self.width,) * 3
            elif name.endswith("Wi.weight"):
                found[name] = (rows // 2,) * 2
        return found

    def configuration(self) -> dict[str, Any]:
        d, dropout = dimensions(self.config), self.config.dropout
        return {
            "model_type": "modernbert",
            "architectures": ["ModernBertForMaskedLM"],
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.block_size,
            "hidden_size": d.width,
            "num_hidden_layers": d.layers,
            "num_attention_heads": d.heads,
            "intermediate_size": d.inner,
            "layer_types": list(self.kinds),
            "local_attention": self.config.local_attention,
            "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in THETA.items()},
            "attention_dropout": dropout,
            "embedding_dropout": dropout,
            "mlp_dropout": dropout,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "cls_token_id": None,
            "sep_token_id": None,
        }
