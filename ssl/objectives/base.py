"""Interface of an objective, and the cross-entropy that all objectives share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from rlgym.ssl.models.backbone import Backbone

Batch = dict[str, Tensor]
"""One update's tensors, split into parts for gradient accumulation, `[parts, ...]` each: tokens `[parts, rows, time]`,
documents of the same shape (if rows hold several), labels `[parts, n]` or `[parts, rows, time]`, total `[parts]`:
number of labels of the whole batch (all parts), the divisor of summed losses."""

IGNORED = -100
"""Label of tokens without loss."""


class Vocabulary(Protocol):
    """The part of a tokenizer used by objectives."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def special_ids(self) -> list[int]: ...
    @property
    def mask_id(self) -> int | None: ...
    @property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each token, `[vocab]`; 0 for special ones."""
        ...

    @property
    def starts_word(self) -> np.ndarray:
        """Whether each token begins a word, `[vocab]`."""
        ...


class Objective(Protocol):
    causal: bool
    """Whether the model's attention must be causal."""
    extra: int
    """Tokens needed beyond the block: 1 if labels are the tokens shifted by one."""

    def make(
        self, ids: np.ndarray, documents: np.ndarray | None, step: int, parts: int = 1, held_out: bool = False
    ) -> Batch:
        """Build the batch of update `step` from ids `[rows, block + extra]` and their documents, on the CPU.

        A pure function; randomness comes from (seed, step), with a separate stream for held-out text.
        """
        ...

    def loss(self, model: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the labels' losses in nats and the number of labels, both 0-d. `part`: one of `parts`."""
        ...

    def evaluate(self, model: Backbone, batches: Iterable[Batch]) -> dict[str, float]: ...


def parts(batch: Batch) -> list[Batch]:
    """Split a batch along the first dimension of its tensors."""
    return [
        dict(zip(batch, tensors, strict=True)) for tensors in zip(*(t.unbind() for t in batch.values()), strict=True)
    ]


def summed_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of logits `[n, vocab]` and labels `[n]`, summed, in float32 regardless of the logits' dtype; and
    the number of labels that are not `IGNORED`."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum"), (labels != IGNORED).sum()


def token_counts(ids: np.ndarray, vocab_size: int, most: int = 1 << 25) -> np.ndarray:
    """Counts of each token in `ids [tokens]` (a memory map of any size), int64 `[vocab_size]`. Texts longer than `most`
    tokens are sampled by 64 evenly spread pieces.
    """
    pieces = [ids] if len(ids) <= most else [ids[at : at + most // 64] for at in range(0, len(ids), -(-len(ids) // 64))]
    found = np.zeros(vocab_size, dtype=np.int64)
    for piece in pieces:
        for at in range(0, len(piece), 1 << 20):
            found += np.bincount(piece[at : at + (1 << 20)], minlength=vocab_size)
    return found
