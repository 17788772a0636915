"""Next-token prediction (Radford et al. 2018): minimises -log p(token | previous tokens of its document)."""

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
    """Every token of a block is a label, including the end of each document, which starts the next one."""

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
        """`counts [vocab]`: token counts of the training text. No randomness, fixed shapes."""
        self.token_bytes = torch.from_numpy(vocabulary.token_bytes.astype(np.int64))
        self.commonest = int(counts.argmax())

    def make(
        self, ids: np.ndarray, documents: np.ndarray | None, step: int, parts: int = 1, held_out: bool = False
    ) -> Batch:
        """ids `[rows, block + 1]` -> tokens `[parts, rows / parts, block]` and labels of the same shape, shifted by
        one."""

        def cut(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).view(parts, -1, values.shape[1])

        labels = cut(ids[:, 1:])
        batch = {"tokens": cut(ids[:, :-1]), "labels": labels, "total": torch.full((parts,), float(labels.numel()))}
        return batch if documents is None else batch | {"documents": cut(documents[:, :-1])}

    def predict(self, model: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """Logits `[rows x block, vocab]` and labels `[rows x block]`."""
        hidden = model(part["tokens"], part.get("documents"))
        return model.logits(hidden.flatten(0, 1)), part["labels"].flatten()

    def loss(self, model: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the labels' losses in nats and the number of labels, both 0-d."""
        return summed_loss(*self.predict(model, part))

    def evaluate(self, model: Backbone, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics of held-out batches; see `evaluate_batches`."""
        return evaluate_batches(self.predict, model, batches, self.token_bytes, self.commonest)
