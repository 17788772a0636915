"""From a model's knobs to the model: what is empty is derived, what cannot be is refused, and weights are drawn."""

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
    """The model, on the CPU, its weights drawn from `seed` alone; empty knobs of `config` are filled in.

    `vocab_size` is the tokenizer's. `causal` is what the objective needs; None: what the architecture is. `documents`:
    blocks will hold several, which some of transformers' architectures cannot keep apart and are refused for.
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
    # Without storage first: what modules would fill in themselves costs time and draws from torch's own generator.
    with torch.device("meta"):
        model: Backbone = model_class(config.architecture)(config, vocab_size, padded(vocab_size, config))
    model.to_empty(device="cpu")
    model.initialise(generator)
    return model


def model_class(architecture: str) -> Any:
    return registry.resolve(registry.entry("model", architecture).target)


def check_direction(config: Any, causal: bool | None) -> None:
    """Refuse a decoder where tokens on both sides must be seen, and an encoder where they must not."""
    if causal is False and config.architecture in DECODERS:
        raise RequestError(
            f"model={config.name}: {config.architecture} sees only what is left of a token; objective=masked needs an "
            "encoder, such as model=bert_mini or model=modernbert_mini"
        )
    if causal is True and config.architecture in ENCODERS:
        raise RequestError(
            f"model={config.name}: {config.architecture} sees both sides of a token; objective=next_token needs a "
            "decoder, such as model=gpt_mini or model=qwen_mini"
        )


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
