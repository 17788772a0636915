"""A model's shape from its depth, and its cost in parameters, FLOP and memory, without building it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlgym.errors import RequestError

HEAD_DIM = 64  # if the number of heads is not given
INNER = {"gpt2": 4.0, "llama": 8 / 3, "qwen3": 8 / 3, "bert": 4.0, "modernbert": 1.5}
"""Width of the MLP as a multiple of the model's width, as published; rounded up to a multiple of 64."""


def resolve_model(config: Any) -> None:
    """Fill a config's empty values in place; RequestError if values are inconsistent."""
    if config.architecture == "transformers":
        return
    if config.num_hidden_layers is None:
        if config.depth is None:
            raise RequestError(
                f"model={config.name}: model.depth is empty; model.depth=6 gives a whole model, or set "
                "model.num_hidden_layers and model.hidden_size"
            )
        config.num_hidden_layers = config.depth
    if config.hidden_size is None:
        config.hidden_size = HEAD_DIM * (config.depth or config.num_hidden_layers)
    width = config.hidden_size
    if config.num_attention_heads is None:
        config.num_attention_heads = max(1, width // HEAD_DIM)
    heads = config.num_attention_heads
    if width % heads:
        near = max(n for n in range(1, min(width, heads) + 1) if width % n == 0)
        raise RequestError(
            f"model.hidden_size={width} is not a multiple of model.num_attention_heads={heads}; "
            f"model.num_attention_heads={near} or model.hidden_size={-(-width // heads) * heads} would do"
        )
    if config.architecture in ("llama", "qwen3", "modernbert") and width // heads % 2:
        raise RequestError(
            f"model.num_attention_heads={heads}: heads of {width // heads} cannot be rotated in pairs; "
            f"model.hidden_size={2 * heads * -(-width // (2 * heads))} would do"
        )
    if config.intermediate_size is None:
        config.intermediate_size = -(-round(INNER[config.architecture] * width) // 64) * 64
    if config.architecture in ("llama", "qwen3"):
        if config.num_key_value_heads is None:
            config.num_key_value_heads = heads
        if heads % config.num_key_value_heads:
            near = max(n for n in range(1, min(heads, config.num_key_value_heads) + 1) if heads % n == 0)
            raise RequestError(
                f"model.num_key_value_heads={config.num_key_value_heads} does not divide "
                f"model.num_attention_heads={heads}; model.num_key_value_heads={near} would do"
            )


@dataclass(frozen=True)
class Dimensions:
    """A resolved model's shape."""

    layers: int
    width: int
    heads: int
    groups: int
    """Number of key / value heads."""
    inner: int
    """Width of the MLP."""
    head_dim: int


def dimensions(config: Any) -> Dimensions:
    layers, width, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    groups, inner = getattr(config, "num_key_value_heads", heads), config.intermediate_size
    assert layers and width and heads and groups and inner, "resolve_model first"
    return Dimensions(layers, width, heads, groups, inner, width // heads)


def padded(vocab_size: int, config: Any) -> int:
    """Rows of the embedding: the vocabulary size rounded up to a multiple of `vocab_multiple`."""
    return -(-vocab_size // int(config.vocab_multiple)) * int(config.vocab_multiple)


# ---- derived hyper-parameters


def learning_rate_for(width: int, beside_muon: bool = False) -> float:
    """Return AdamW's peak learning rate for a model of this width.

    6e-4 at width 768, as for GPT-3 (Brown et al. 2020, table 2.1) and nanoGPT, scaled as 1 / sqrt(width), as in
    nanochat. With Muon, where it only steps embeddings, head and vectors, four times that (docs/lab-notes.md).
    """
    return (4 if beside_muon else 1) * 6e-4 * math.sqrt(768 / width)


def batch_size_for(tokens: int, block_size: int) -> int:
    """Blocks per update for a budget of `tokens`. Tokens per batch grow as tokens ** 0.383 (Bergsma et al. 2025,
    arXiv:2505.13738; nanochat), from 2,048 at a budget of 5 million, where small batches learned more in a few minutes
    (docs/lab-notes.md). A power of two, for divisibility.
    """
    wanted = 2_048 * (tokens / 5e6) ** 0.383 / block_size
    return int(2 ** max(0, round(math.log2(wanted))))


# ---- cost


@dataclass(frozen=True)
class Estimate:
    parameters: int
    flops_per_token: float
    """FLOP of forward and backward pass, as counted for MFU."""
    memory_bytes: int
    """Weights, gradients, AdamW's two moments and one batch's activations, all in fp32."""
