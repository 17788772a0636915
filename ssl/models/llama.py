"""Llama (Touvron et al. 2023, arXiv:2302.13971) and Qwen3 (2025, arXiv:2505.09388).

Decoders with RoPE, RMSNorm, a gated MLP and grouped-query attention; Qwen3 also normalises queries and keys.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.ssl.models.attention import Cache, Pattern, attend
from rlgym.ssl.models.backbone import Backbone, Embedding, Linear
from rlgym.ssl.models.fused import rms_norm, swiglu
from rlgym.ssl.models.machine_layer import layer as machine_layer
from rlgym.ssl.models.rope import rope_tables, rotate
from rlgym.ssl.models.sizes import dimensions
from rlgym.ssl.models.weights import Weight

if TYPE_CHECKING:
    from rlgym.ssl.config import LlamaModel

EPS = 1e-6


class RMSNorm(nn.Module):
    eps = EPS

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, groups: int, dropout: float, normed: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.head_dim, self.dropout = heads, groups, width // heads, dropout
        self.qkv_proj = Linear(width, (heads + 2 * groups) * self.head_dim, bias=False)
        self.o_proj = Linear(width, width, bias=False)
        self.q_norm = RMSNorm(self.head_dim) if normed else None
        self.k_norm = RMSNorm(self.head_dim) if normed else None

    def norms(self) -> tuple[Tensor, Tensor] | None:
        """Weights of the query and key norms, `[head_dim]` each."""
        return None if self.q_norm is None or self.k_norm is None else (self.q_norm.weight, self.k_norm.weight)

    def forward(
        self, x: Tensor, shape: Pattern, tables: tuple[Tensor, Tensor], cache: Cache | None, layer: int
    ) -> Tensor:
        batch, time, _ = x.shape
        qkv = self.qkv_proj(x).view(batch, time, self.heads + 2 * self.groups, self.head_dim)
        both, value = qkv.split([self.heads + self.groups, self.groups], dim=2)
        if norms := self.norms():
            # One norm over all heads of queries and keys, then separate weights.
            weight = torch.cat([norms[0].expand(self.heads, -1), norms[1].expand(self.groups, -1)])
            both = rms_norm(both, weight, EPS)
        both = rotate(both, *tables).to(value.dtype)
        query, key = both.transpose(1, 2).split([self.heads, self.groups], dim=1)
        value = value.transpose(1, 2)
        if cache is not None:
            key, value = cache.extend(layer, key, value, shape)
        mixed: Tensor = self.o_proj(attend(query, key, value, shape, self.dropout if self.training else 0.0))
        return mixed


class MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = Linear(width, 2 * inner, bias=False)
        self.down_proj = Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(swiglu(self.gate_up_proj(x)))
        return out


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, groups: int, inner: int, dropout: float, normed: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.input_layernorm = RMSNorm(width)
        self.self_attn = Attention(width, heads, groups, dropout, normed)
        self.post_attention_layernorm = RMSNorm(width)
        self.mlp = MLP(width, inner)

    def forward(
        self, x: Tensor, shape: Pattern, tables: tuple[Tensor, Tensor], cache: Cache | None, layer: int
    ) -> Tensor:
        if shape.kernels:
            attn, mlp, (cos, sin) = self.self_attn, self.mlp, tables
            return machine_layer(
                x,
                (self.input_layernorm, attn.qkv_proj, attn.o_proj),
                (self.post_attention_layernorm, mlp.gate_up_proj, mlp.down_proj),
                before=True,
                heads=attn.heads,
                activation="swiglu",
                sees=shape.sees(x.shape[1]),
                tables=(cos[:, 0], sin[:, 0]),
                norms=attn.norms(),
            )
        mixed = self.self_attn(self.input_layernorm(x), shape, tables, cache, layer)
        x = x + (F.dropout(mixed, self.dropout, self.training) if self.dropout else mixed)
        inner = self.mlp(self.post_attention_layernorm(x))
        return x + (F.dropout(inner, self.dropout, self.training) if self.dropout else inner)


class Transformer(nn.Module):
    def __init__(self, config: LlamaModel, vocab_size: int, normed: bool) -> None:
        super().__init__()
        d = dimensions(config)
        self.embed_tokens = Embedding(vocab_size, d.width)
        self.layers = nn.ModuleList(
            Layer(d.width, d.heads, d.groups, d.inner, config.dropout, normed) for _ in range(d.layers)
        )
        self.norm = RMSNorm(d.width)


class Llama(Backbone):
    causal = True
    layers_prefix = "model.layers."
    normed = False
    """Whether queries and keys are normalised."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LlamaModel, tokens: int, vocab_size: int) -> None:
        super().__init__()
        self.config, self.tokens, self.vocab_size, self.block_size = config, tokens, vocab_size, config.block_size
        self.model = Transformer(config, vocab_size, self.normed)
        d = dimensions(config)
        self.width, self.head_dim = d.width, d.head_dim
        self.lm_head = None if config.tie_word_embeddings else Linear(self.width, vocab_size, bias=False)
        for name, table in zip(("cos", "sin"), self.tables(), strict=True):
            self.register_buffer(name, table, persistent=False)

    def tables(self) -> tuple[Tensor, Tensor]:
        return rope_tables(self.block_size, self.head_dim, self.config.rope_theta)

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        body, shape, time = self.model, self.pattern(tokens, documents, cache), tokens.shape[1]
        # RoPE depends on distances only: positions need not restart in each document, and one table serves all rows.
        if cache is None or shape.positions is None:
            tables = self.cos[:time, None], self.sin[:time, None]
        else:
            tables = self.cos[shape.positions][:, :, None], self.sin[shape.positions][:, :, None]
        x = body.embed_tokens(tokens)
        if self.config.dropout:
            x = F.dropout(x, self.config.dropout, self.training)
        for index, layer in enumerate(body.layers):
            x = layer(x, shape, tables, cache, index)
        if cache is not None:
            cache.advance(time)
        hidden: Tensor = body.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embedding() if self.lm_head is None else self.lm_head.weight)

    def embedding(self) -> Tensor:
        return self.model.embed_tokens.weight

    def new_cache(self, batch: int) -> Cache:
        d = dimensions(self.config)
        return Cache(d.layers, batch, d.groups, self.block_size, d.head_dim, like=self.embedding())

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal(0, 0.02), projections into the residual stream scaled by 1 / sqrt(2 layers); norms 1."""
        scale = 1 / math.sqrt(2 * len(self.model.layers))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                outward = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 * scale if outward else 0.02, generator)
            else:
                nn.init.ones_(parameter)
        for table, values in zip((self.cos, self.sin), self.tables(), strict=True):
            table.copy_(values)

    def weights(self) -> list[Weight]:
        d = dimensions(self.config)
        keys = d.groups * d.head_dim
        fused = {
            "qkv_proj": (("q_proj", "k_proj", "v_proj"), (d.width, keys, keys)),
            "gate_up_proj": (("gate_proj", "up_proj"), (d.inner, d.inner)),
        }
        found: list[Weight] = []
        for name, _ in self.named_parameters():
            part = name.split(".")[-2]
            if part in fused:
                theirs, rows = fused[part]
                found.append(Weight(name, tuple(name.replace(part, their) for their in theirs), rows))
            else:
                found.append(Weight(name, (name,)))
        return found

    def configuration(self) -> dict[str, Any]:
        d, config = dimensions(self.config), self.config
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.block_size,
            "hidden_size": d.width,
            "num_hidden_layers": d.layers,
            "num_attention_heads": d.heads,
            "num_key_value_heads": d.groups,
            "head_dim": d.head_dim,
            "intermediate_size": d.inner,
            "rms_norm_eps": EPS,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "attention_dropout": config.dropout,
            "tie_word_embeddings": config.tie_word_embeddings,
            "bos_token_id": None,
            "eos_token_id": None,
        }


class Qwen3(Llama):
    normed = True

    def configuration(self) -> dict[str, Any]:
        return super().configuration() | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
