"""From a model's knobs to the model: what is empty is derived, what cannot be is refused, and weights are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rlgym import registry
from rlgym.errors import RequestError
from rlgym.ssl.models.sizes import (
    Estimate,
    batch_size_for,
    estimate,
    learning_rate_for,
    padded,
    settle_model,
)

if TYPE_CHECKING:
    from rlgym.ssl.models.backbone import Backbone

__all__ = ["Estimate", "batch_size_for", "build_model", "estimate", "learning_rate_for", "settle_model"]

DECODERS = ("gpt2", "llama", "qwen3")
ENCODERS = ("bert", "modernbert")


def build_model(
    config: Any, vocab_size: int, seed: int, causal: bool | None = None, documents: bool = False
) -> Backbone:
    """The model, on the CPU, its weights drawn from `seed` alone; empty knobs of `config` are filled in.

    `vocab_size` is the tokenizer's. `causal` is what the objective needs; None: what the architecture is. `documents`:
    blocks will hold several, which some of transformers' architectures cannot keep apart and are refused for.
    """
    settle_model(config)
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
