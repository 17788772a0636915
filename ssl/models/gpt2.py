"""GPT-2 (Radford et al. 2019): a pre-norm decoder with learned positions, LayerNorm, GELU and tied embeddings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.ssl.models.attention import Cache, Pattern, attend
from rlgym.ssl.models.backbone import Backbone, Embedding, Linear
from rlgym.ssl.models.fused import gelu
from rlgym.ssl.models.machine_layer import layer as machine_layer
from rlgym.ssl.models.sizes import dimensions
from rlgym.ssl.models.weights import Weight

if TYPE_CHECKING:
    from rlgym.ssl.config import GPT2Model


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn = Linear(width, 3 * width)
        self.c_proj = Linear(width, width)

    def forward(self, x: Tensor, shape: Pattern, cache: Cache | None, layer: int) -> Tensor:
        batch, time, width = x.shape
        qkv = self.c_attn(x).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.extend(layer, key, value, shape)
        out: Tensor = self.c_proj(attend(query, key, value, shape, self.dropout if self.training else 0.0))
        return out


class MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, inner)
        self.c_proj = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """The exact GELU, as in nanoGPT and recorded in exports; on a CPU a tanh costs four times an erf."""
        out: Tensor = self.c_proj(gelu(self.c_fc(x)))
        return out


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, dropout)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, inner)

    def forward(self, x: Tensor, shape: Pattern, cache: Cache | None, layer: int) -> Tensor:
        if shape.kernels:
            return machine_layer(
                x,
                (self.ln_1, self.attn.c_attn, self.attn.c_proj),
                (self.ln_2, self.mlp.c_fc, self.mlp.c_proj),
                before=True,
                heads=self.attn.heads,
                activation="gelu",
                sees=shape.sees(x.shape[1]),
            )
        mixed = self.attn(self.ln_1(x), shape, cache, layer)
        x = x + (F.dropout(mixed, self.dropout, self.training) if self.dropout else mixed)
        inner = self.mlp(self.ln_2(x))
        return x + (F.dropout(inner, self.dropout, self.training) if self.dropout else inner)


class Transformer(nn.Module):
    def __init__(self, config: GPT2Model, vocab_size: int) -> None:
        super().__init__()
        d = dimensions(config)
        self.wte = Embedding(vocab_size, d.width)
        self.wpe = Embedding(config.block_size, d.width)
        self.h = nn.ModuleList(Layer(d.width, d.heads, d.inner, config.dropout) for _ in range(d.layers))
        self.ln_f = nn.LayerNorm(d.width)


class GPT2(Backbone):
    causal = True
    layers_prefix = "transformer.h."

    def __init__(self, config: GPT2Model, tokens: int, vocab_size: int) -> None:
        super().__init__()
        self.config, self.tokens, self.vocab_size, self.block_size = config, tokens, vocab_size, config.block_size
        self.transformer = Transformer(config, vocab_size)
        self.width = self.transformer.wte.embedding_dim

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        body, shape = self.transformer, self.pattern(tokens, documents, cache)
        places = body.wpe.weight[: tokens.shape[1]] if shape.positions is None else body.wpe(shape.positions)
        x = body.wte(tokens) + places
        if self.config.dropout:
            x = F.dropout(x, self.config.dropout, self.training)
        for index, layer in enumerate(body.h):
            x = layer(x, shape, cache, index)
        if cache is not None:
            cache.advance(tokens.shape[1])
        hidden: Tensor = body.ln_f(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.transformer.wte.weight)

    def embedding(self) -> Tensor:
        return self.transformer.wte.weight

    def new_cache(self, batch: int) -> Cache:
        d = dimensions(self.config)
        return Cache(d.layers, batch, d.heads, self.block_size, d.head_dim, like=self.embedding())

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal(0, 0.02), projections into the residual stream scaled by 1 / sqrt(2 layers); biases 0."""
        scale = 1 / math.sqrt(2 * len(self.transformer.h))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 * scale if name.endswith("c_proj.weight") else 0.02
                nn.init.normal_(parameter, 0.0, std, generator)
            else:
                nn.init.constant_(parameter, float(".ln_" in name and name.endswith("weight")))

    def weights(self) -> list[Weight]:
        """Their Conv1D also fuses queries, keys and values in one matrix, transposed."""
        inside = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
        return [Weight(name, (name,), transposed=name.endswith(inside)) for name, _ in self.named_parameters()]

    def matrices(self) -> dict[str, tuple[int, ...]]:
        return {
            name: (self.width,) * 3 if name.endswith("c_attn.weight") else rows
            for name, rows in super().matrices().items()
        }

    def configuration(self) -> dict[str, Any]:
        d, dropout = dimensions(self.config), self.config.dropout
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": self.vocab_size,
            "n_positions": self.block_size,
            "n_embd": d.width,
            "n_layer": d.layers,
            "n_head": d.heads,
            "n_inner": d.inner,
            "activation_function": "gelu",
            "resid_pdrop": dropout,
            "embd_pdrop": dropout,
            "attn_pdrop": dropout,
            "bos_token_id": None,
            "eos_token_id": None,
        }
