"""A model's shape from one dial, and what it will cost: parameters, arithmetic, memory. Nothing is built for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlgym.errors import RequestError

HEAD_DIM = 64  # where the number of heads is not given
INNER = {"gpt2": 4.0, "llama": 8 / 3, "qwen3": 8 / 3, "bert": 4.0, "modernbert": 1.5}
"""Width inside the MLP as a multiple of the model's width, as published; rounded up to a multiple of 64."""


def settle_model(config: Any) -> None:
    """Fill a model's empty knobs, in place; RequestError where they do not go together."""
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
            f"model.hidden_size={width} is no multiple of model.num_attention_heads={heads}; "
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
    """A settled model's shape."""

    layers: int
    width: int
    heads: int
    groups: int
    """Key / value heads."""
    inner: int
    """Width inside the MLP."""
    head_dim: int


def dimensions(config: Any) -> Dimensions:
    layers, width, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    groups, inner = getattr(config, "num_key_value_heads", heads), config.intermediate_size
    assert layers and width and heads and groups and inner, "settle_model first"
    return Dimensions(layers, width, heads, groups, inner, width // heads)


def padded(vocab_size: int, config: Any) -> int:
    """Rows of the embedding: the tokenizer's vocabulary, up to the next multiple of `vocab_multiple`."""
    return -(-vocab_size // int(config.vocab_multiple)) * int(config.vocab_multiple)


# ---- what follows from the dial


def learning_rate_for(width: int, beside_muon: bool = False) -> float:
    """AdamW's peak step size for a model of this width.

    6e-4 at 768, as for GPT-3 (Brown et al. 2020, table 2.1) and nanoGPT, and from there on as 1 / sqrt(width), as in
    nanochat. Beside Muon, with only embeddings, head and vectors left to it, four times that (docs/lab-notes.md).
    """
    return (4 if beside_muon else 1) * 6e-4 * math.sqrt(768 / width)


def batch_size_for(tokens: int, block_size: int) -> int:
    """Blocks of one update for a budget of `tokens`.

    Tokens a batch grow as tokens ** 0.383 (Bergsma et al. 2025, arXiv:2505.13738; nanochat), from 2,048 at a budget of
    5 million, where small ones learned more in a run of minutes (docs/lab-notes.md). A power of two, so that it divides
    well.
    """
    wanted = 2_048 * (tokens / 5e6) ** 0.383 / block_size
    return int(2 ** max(0, round(math.log2(wanted))))


# ---- what it will cost


@dataclass(frozen=True)
class Estimate:
    parameters: int
    flops_per_token: float
    """Forward and backward, as MFU counts them."""
    memory_bytes: int
    """Weights, gradients, AdamW's two moments and what one batch keeps for its backward pass, all in fp32."""


def estimate(config: Any, vocab_size: int, batch_size: int, causal: bool, predicted: float = 1.0) -> Estimate:
    """What training a settled model costs with `batch_size` blocks at a time.

    Arithmetic as in PaLM (Chowdhery et al. 2022, appendix B) and nanoGPT: 6 for each weight that multiplies a token,
    and 12 x layers x width x tokens seen for attention, a causal token's whole row included. `predicted` is the share
    of the positions that the head runs on. Embeddings that are only looked up cost no arithmetic. `causal` is what the
    objective needs: the heads of transformers' architectures depend on it.
    """
    if config.architecture == "transformers":
        from rlgym.ssl.models.transformers_model import count

        return count(config, padded(vocab_size, config), batch_size, causal, predicted)
    rows, block, architecture = padded(vocab_size, config), config.block_size, config.architecture
    shape = dimensions(config)
    layers, width, inner, head_dim = shape.layers, shape.width, shape.inner, shape.head_dim
    seen = [block] * layers
    if architecture == "gpt2":
        inside = width * (4 * width + 2 * inner)
        vectors = layers * (9 * width + inner) + 2 * width
        looked_up, head, head_extra = block * width, rows * width, 0
        kept = 10 * width + 2 * inner
    elif architecture in ("llama", "qwen3"):
        keys = shape.groups * head_dim
        inside = width * (2 * width + 2 * keys + 3 * inner)
        vectors = layers * (2 * width + (2 * head_dim if architecture == "qwen3" else 0)) + width
        looked_up, head, head_extra = (0 if config.tie_word_embeddings else rows * width), rows * width, 0
        kept = 10 * width + 4 * keys + 4 * inner
    elif architecture == "bert":
        inside = width * (4 * width + 2 * inner)
        vectors = layers * (9 * width + inner) + 2 * width + 3 * width + rows
        looked_up, head, head_extra = (block + 2) * width, rows * width, width * width
        kept = 10 * width + 2 * inner
    else:
        inside = width * (4 * width + 3 * inner)
        vectors = 2 * layers * width + 2 * width + rows
        looked_up, head, head_extra = 0, rows * width, width * width
        kept = 10 * width + 4 * inner
        reach = 2 * (config.local_attention // 2) + 1
        seen = [min(block, reach) if i % config.global_attn_every_n_layers else block for i in range(layers)]
    matrices = layers * inside
    parameters = matrices + vectors + looked_up + head + head_extra
    flops = 6 * (matrices + predicted * (head + head_extra)) + 12 * width * sum(seen)
    activations = 4 * batch_size * block * (layers * kept + predicted * 3 * rows + 4 * width)
    return Estimate(parameters, float(flops), round(16 * parameters + activations))
