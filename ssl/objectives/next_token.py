"""Next-token prediction (Radford et al. 2018): minimise -log p(token | the tokens before it in its document)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlgym.ssl.objectives.base import Batch, Vocabulary, summed_loss
from rlgym.ssl.objectives.metrics import evaluate_batches

if TYPE_CHECKING:
    from rlgym.ssl.config import NextTokenConfig
    from rlgym.ssl.models.backbone import Backbone


class NextToken:
    """Every token of a block is a label, the end of each document too: it begins the next one's tokens."""

    causal = True
    extra = 1

    def __init__(
        self,
        config: NextTokenConfig,
        vocabulary: Vocabulary,
        counts: np.ndarray,
        seed: int,
        fixed_shapes: bool = False,
    ) -> None:
        """`counts [vocab]`: how often each token is seen in training. Nothing here is drawn, and shapes are fixed."""
        self.token_bytes = torch.from_numpy(vocabulary.token_bytes.astype(np.int64))
        self.commonest = int(counts.argmax())

    def make(
        self, ids: np.ndarray, documents: np.ndarray | None, step: int, parts: int = 1, held_out: bool = False
    ) -> Batch:
        """ids `[rows, block + 1]` -> tokens `[parts, rows / parts, block]` and labels alike, one to the left."""

        def cut(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).view(parts, -1, values.shape[1])

        labels = cut(ids[:, 1:])
        batch = {"tokens": cut(ids[:, :-1]), "labels": labels, "total": torch.full((parts,), float(labels.numel()))}
        return batch if documents is None else batch | {"documents": cut(documents[:, :-1])}

    def predict(self, model: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """Logits `[rows x block, vocab]` and the labels `[rows x block]` they are for."""
        hidden = model(part["tokens"], part.get("documents"))
        return model.logits(hidden.flatten(0, 1)), part["labels"].flatten()

    def loss(self, model: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the labels' losses in nats, and how many labels there are, both 0-d."""
        return summed_loss(*self.predict(model, part))

    def evaluate(self, model: Backbone, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics of held-out batches, on their device; see `evaluate_batches`."""
        return evaluate_batches(self.predict, model, batches, self.token_bytes, self.commonest)
