"""The interface of an objective, and the cross-entropy that all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from rlgym.ssl.models.backbone import Backbone

Batch = dict[str, Tensor]
"""One update's tensors, cut into the parts that gradients are accumulated over, `[parts, ...]` each:
tokens `[parts, rows, time]`, documents alike (where a row holds several), labels `[parts, n]` or `[parts, rows, time]`,
total `[parts]`: labels of the whole batch (all parts), what a sum of losses is divided by."""

IGNORED = -100
"""The label of what is not predicted."""


class Vocabulary(Protocol):
    """What objectives know of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def special_ids(self) -> list[int]: ...
    @property
    def mask_id(self) -> int | None: ...
    @property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes that each token stands for, `[vocab]`; 0 for special ones."""
        ...

    @property
    def starts_word(self) -> np.ndarray:
        """Whether each token begins a word, `[vocab]`."""
        ...


class Objective(Protocol):
    causal: bool
    """Whether the model may see only what came before."""
    extra: int
    """Tokens a sequence needs beyond the block: 1 where labels are the tokens shifted by one."""

    def make(
        self, ids: np.ndarray, documents: np.ndarray | None, step: int, parts: int = 1, held_out: bool = False
    ) -> Batch:
        """The batch of update `step` from ids `[rows, block + extra]` and their documents, on the CPU.

        A pure function; what it draws comes from (seed, step), for held-out text from a stream of its own.
        """
        ...

    def loss(self, model: Backbone, part: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the labels' losses in nats, and how many labels there are, both 0-d. `part`: one of `parts`."""
        ...

    def evaluate(self, model: Backbone, batches: Iterable[Batch]) -> dict[str, float]: ...


def parts(batch: Batch) -> list[Batch]:
    """The parts of a batch: each name's tensor without the first dimension."""
    return [
        dict(zip(batch, tensors, strict=True)) for tensors in zip(*(t.unbind() for t in batch.values()), strict=True)
    ]


def summed_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of logits `[n, vocab]` and labels `[n]`, summed, in float32 whatever the logits are in; and how
    many labels are not `IGNORED`."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum"), (labels != IGNORED).sum()


def token_counts(ids: np.ndarray, vocab_size: int, most: int = 1 << 25) -> np.ndarray:
    """How often each token stands in `ids [tokens]` (a memory map of any size), int64 `[vocab_size]`.

    Of a longer text, of 64 pieces of it, evenly spread, `most` tokens in all.
    """
    pieces = [ids] if len(ids) <= most else [ids[at : at + most // 64] for at in range(0, len(ids), -(-len(ids) // 64))]
    found = np.zeros(vocab_size, dtype=np.int64)
    for piece in pieces:
        for at in range(0, len(piece), 1 << 20):
            found += np.bincount(piece[at : at + (1 << 20)], minlength=vocab_size)
    return found
