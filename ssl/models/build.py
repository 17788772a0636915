"""Builds a model from its config: derives empty values, refuses impossible ones, initialises weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rlgym.config import registry
from rlgym.errors import RequestError
from rlgym.ssl.models.sizes import (
    Estimate,
    batch_size_for,
    dimensions,
    learning_rate_for,
    padded,
    resolve_model,
)

if TYPE_CHECKING:
    from rlgym.ssl.models.backbone import Backbone

__all__ = ["Estimate", "batch_size_for", "build_model", "estimate", "learning_rate_for", "resolve_model"]

DECODERS = ("gpt2", "llama", "qwen3")
ENCODERS = ("bert", "modernbert")


def build_model(
    config: Any, vocab_size: int, seed: int, causal: bool | None = None, documents: bool = False
) -> Backbone:
    """Build the model on the CPU, with weights determined by `seed`; empty values of `config` are filled in.
    `vocab_size` is the tokenizer's. `causal`: required by the objective; None: the architecture's. `documents`: blocks
    will contain several documents, which some of transformers' architectures do not support.
    """
    resolve_model(config)
    check_direction(config, causal)
    generator = torch.Generator().manual_seed(seed)
    if config.architecture == "transformers":
        from rlgym.ssl.models.transformers_model import TransformersBackbone, no_documents

        other = TransformersBackbone(config, vocab_size, padded(vocab_size, config), causal is not False, seed)
        if documents and not other.takes_documents:
            raise no_documents(config)
        return other
    # On the meta device first: default initialisation costs time and draws from torch's global generator.
    with torch.device("meta"):
        model: Backbone = model_class(config.architecture)(config, vocab_size, padded(vocab_size, config))
    model.to_empty(device="cpu")
    model.initialise(generator)
    return model


def model_class(architecture: str) -> Any:
    return registry.resolve(registry.entry("model", architecture).target)


def check_direction(config: Any, causal: bool | None) -> None:
    """Refuse a decoder for bidirectional objectives, and an encoder for causal ones."""
    if causal is False and config.architecture in DECODERS:
        raise RequestError(
            f"model={config.name}: {config.architecture} attends only to the left; objective=masked needs an "
            "encoder, such as model=bert_mini or model=modernbert_mini"
        )
    if causal is True and config.architecture in ENCODERS:
        raise RequestError(
            f"model={config.name}: {config.architecture} attends to both sides; objective=next_token needs a "
            "decoder, such as model=gpt_mini or model=qwen_mini"
        )


def estimate(config: Any, vocab_size: int, batch_size: int, causal: bool, predicted: float = 1.0) -> Estimate:
    """Training cost of a resolved model with `batch_size` blocks. FLOP as in PaLM (Chowdhery et al. 2022, appendix B)
    and nanoGPT: 6 per weight and token, and 12 x layers x width x context for attention, counting the full row also for
    causal tokens. `predicted`: share of positions that the head runs on. Embedding look-ups cost nothing. `causal`:
    required by the objective, which determines the head of transformers' architectures.
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
