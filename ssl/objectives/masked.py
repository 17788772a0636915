"""Masked language modelling (Devlin et al. 2019, arXiv:1810.04805): minimises -log p(masked token | visible tokens).

The head runs on the masked positions only: at a rate of 0.3 it costs 0.3 of the full head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlgym.ssl.objectives.base import IGNORED, Batch, Vocabulary, summed_loss
from rlgym.ssl.objectives.masking import deviation, mask_tokens
from rlgym.ssl.objectives.metrics import evaluate_batches

if TYPE_CHECKING:
    from rlgym.ssl.config import MaskedConfig
    from rlgym.ssl.models.backbone import Backbone

STREAM = 0x6D61736B
"""Separates the masks' random stream from others of the same seed."""


class Masked:
    causal = False
    extra = 0

    def __init__(
        self,
        config: MaskedConfig,
        vocabulary: Vocabulary,
        counts: np.ndarray,
        seed: int,
        fixed_shapes: bool = False,
    ) -> None:
        """`counts [vocab]`: token counts of the training text. `fixed_shapes`: pad the masked positions to a constant
        number, as a compiled update needs."""
        self.config, self.vocabulary, self.seed, self.fixed_shapes = config, vocabulary, seed, fixed_shapes
        self.token_bytes = torch.from_numpy(vocabulary.token_bytes.astype(np.int64))
        text = counts.copy()
        text[vocabulary.special_ids] = 0  # never a label
        self.commonest = int(text.argmax())
        self.word_length = float(text.sum() / max(1, text[vocabulary.starts_word].sum()))

    def make(
        self, ids: np.ndarray, documents: np.ndarray | None, step: int, parts: int = 1, held_out: bool = False
    ) -> Batch:
        """ids `[rows, block]` -> tokens `[parts, rows / parts, block]`, and flat positions and labels of each part's
        masked tokens, `[parts, n]`, padded with position 0 and `IGNORED`. With fixed shapes n is six standard
        deviations above the mean; masked tokens beyond that have no label.
        """
        generator = np.random.default_rng([self.seed, step, int(held_out), STREAM])
        inputs, hidden = mask_tokens(ids, self.config, self.vocabulary, generator)
        rows = hidden.reshape(parts, -1)
        found = [np.flatnonzero(row) for row in rows]
        width = self.width(rows.shape[1]) if self.fixed_shapes else max(1, *map(len, found))
        positions = np.zeros((parts, width), dtype=np.int64)
        labels = np.full((parts, width), IGNORED, dtype=np.int64)
        for part, at in enumerate(found):
            at = at[:width]
            positions[part, : len(at)] = at
            labels[part, : len(at)] = ids.reshape(parts, -1)[part, at]
        total = max(1, int((labels != IGNORED).sum()))
        batch = {
            "tokens": torch.from_numpy(inputs).view(parts, -1, ids.shape[1]),
            "positions": torch.from_numpy(positions),
            "labels": torch.from_numpy(labels),
            "total": torch.full((parts,), float(total)),
        }
        if documents is not None:
            batch["documents"] = torch.from_numpy(documents).view(parts, -1, ids.shape[1])
        return batch

    def width(self, tokens: int) -> int:
        """Number of label slots for a part of `tokens` tokens."""
        most = tokens * self.config.rate + 6 * deviation(tokens, self.config, self.word_length)
        return min(tokens, math.ceil(most))

    def predict(self, model: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """Logits `[n, vocab]` and labels `[n]` at the masked positions."""
        hidden = model(part["tokens"], part.get("documents")).flatten(0, 1)
        return model.logits(hidden.index_select(0, part["positions"])), part["labels"]

    def loss(self, model: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the labels' losses in nats and the number of labels, both 0-d."""
        return summed_loss(*self.predict(model, part))

    def evaluate(self, model: Backbone, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics of held-out batches over the masked tokens; see `evaluate_batches`."""
        return evaluate_batches(self.predict, model, batches, self.token_bytes, self.commonest)
