"""What every language model here can do: hidden states, logits, and the way to `transformers` and back."""

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
    """A transformer that turns tokens into hidden states, with its own head. Built by `rlgym.ssl.models.build`."""

    causal: bool
    """Whether a token sees only those before it."""
    tokens: int
    """The tokenizer's vocabulary."""
    vocab_size: int
    """Rows of the embedding and columns of the logits: `tokens`, padded."""
    block_size: int
    width: int
    layers_prefix: str
    """What the names of the layers' parameters begin with."""
    kernels: bool = False
    """Whether layers are computed by compiled code (`machine_layer`): on a CPU, in float32, without dropout."""

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """`[batch, time]` int64 -> hidden states after the last norm, `[batch, time, width]`.

        With `documents` [batch, time], attention stays inside equal ids and positions count from each document's first
        token. With a `cache` (decoders), the tokens continue its rows, and are added to it.
        """
        raise NotImplementedError

    def pattern(self, tokens: Tensor, documents: Tensor | None, cache: Cache | None) -> Pattern:
        """Which of the tokens see which, and how layers are computed."""
        shape = pattern(tokens, documents, cache, self.causal)
        shape.kernels = self.kernels and cache is None
        return shape

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: `[..., width]` -> `[..., vocab_size]`."""
        raise NotImplementedError

    def embedding(self) -> Tensor:
        """`[vocab_size, width]`"""
        raise NotImplementedError

    def new_cache(self, batch: int) -> Cache | None:
        """An empty cache for `batch` rows of at most `block_size` tokens; None: the model has none."""
        return None

    def initialise(self, generator: torch.Generator) -> None:
        """Fill every parameter and buffer, as published."""
        raise NotImplementedError

    def weights(self) -> list[Weight]:
        """The map to the parameters of `transformers`."""
        raise NotImplementedError

    def configuration(self) -> dict[str, Any]:
        """The values from which `transformers` builds the same model, `model_type` among them."""
        raise NotImplementedError

    def matrices(self) -> dict[str, tuple[int, ...]]:
        """The 2-d weights inside the layers -> the rows of the matrices each is made of (queries, keys, values: three).

        Embedding, head, norms and biases are not among them.
        """
        found: dict[str, tuple[int, ...]] = {}
        for weight in self.weights():
            own = self.get_parameter(weight.own)
            if own.ndim == 2 and weight.own.startswith(self.layers_prefix):
                found[weight.own] = weight.rows or (own.shape[0],)
        return found

    def to_transformers(self) -> tuple[PretrainedConfig, dict[str, Tensor]]:
        """Configuration and weights of the same model there; tied weights once."""
        from transformers import AutoConfig

        return AutoConfig.for_model(**self.configuration()), to_theirs(self, self.weights())

    def load_transformers(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of the same model there."""
        from_theirs(self, self.weights(), state)


class Linear(nn.Linear):
    """nn.Linear that draws no random numbers of its own."""

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """nn.Embedding that draws no random numbers of its own."""

    def reset_parameters(self) -> None:
        pass
