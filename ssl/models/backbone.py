"""The base of all language models: hidden states, logits, and conversion to and from `transformers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlgym.ssl.models.attention import Cache, Pattern, pattern
from rlgym.ssl.models.weights import Weight, from_theirs, to_theirs

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Backbone(nn.Module):
    """A transformer from tokens to hidden states, with its head. Built by `rlgym.ssl.models.build`."""

    causal: bool
    """Whether attention is causal."""
    tokens: int
    """Size of the tokenizer's vocabulary."""
    vocab_size: int
    """Rows of the embedding and columns of the logits: `tokens`, padded."""
    block_size: int
    width: int
    layers_prefix: str
    """Prefix of the layers' parameter names."""
    kernels: bool = False
    """Whether layers run the compiled CPU kernels (`machine_layer`): CPU only, float32, without dropout."""

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Map tokens `[batch, time]` int64 to hidden states after the final norm, `[batch, time, width]`.

        With `documents` [batch, time], attention is within equal ids and positions restart in each document. With a
        `cache` (decoders), the tokens continue its rows and are appended.
        """
        raise NotImplementedError

    def pattern(self, tokens: Tensor, documents: Tensor | None, cache: Cache | None) -> Pattern:
        """The attention mask and positions of the tokens."""
        shape = pattern(tokens, documents, cache, self.causal)
        shape.kernels = self.kernels and cache is None
        return shape

    def logits(self, hidden: Tensor) -> Tensor:
        """Language-model head: `[..., width]` -> `[..., vocab_size]`."""
        raise NotImplementedError

    def embedding(self) -> Tensor:
        """The embedding matrix `[vocab_size, width]`."""
        raise NotImplementedError

    def new_cache(self, batch: int) -> Cache | None:
        """Return an empty cache for `batch` rows of at most `block_size` tokens; None if the model has no cache."""
        return None

    def initialise(self, generator: torch.Generator) -> None:
        """Initialise every parameter and buffer, as published."""
        raise NotImplementedError

    def weights(self) -> list[Weight]:
        """The mapping to the parameters of `transformers`."""
        raise NotImplementedError

    def configuration(self) -> dict[str, Any]:
        """The configuration from which `transformers` builds the same model, including `model_type`."""
        raise NotImplementedError

    def matrices(self) -> dict[str, tuple[int, ...]]:
        """2-d weights inside the layers -> rows of their fused matrices (three for queries, keys, values). Without
        embedding, head, norms and biases.
        """
        found: dict[str, tuple[int, ...]] = {}
        for weight in self.weights():
            own = self.get_parameter(weight.own)
            if own.ndim == 2 and weight.own.startswith(self.layers_prefix):
                found[weight.own] = weight.rows or (own.shape[0],)
        return found

    def to_transformers(self) -> tuple[PretrainedConfig, dict[str, Tensor]]:
        """Configuration and weights of the same model in transformers; tied weights once."""
        from transformers import AutoConfig

        return AutoConfig.for_model(**self.configuration()), to_theirs(self, self.weights())

    def load_transformers(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of the same model in transformers."""
        from_theirs(self, self.weights(), state)


class Linear(nn.Linear):
    """nn.Linear without random initialisation."""

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """nn.Embedding without random initialisation."""

    def reset_parameters(self) -> None:
        pass
