"""Blocks of tokens in an order that is a pure function of seed and step, prefetched one update ahead."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.ssl.data.tokens import Tokens

Make = Callable[[np.ndarray, np.ndarray | None, int], dict[str, Tensor]]
"""(ids `[batch, block + extra]`, documents of the same shape or None, step) -> an update's tensors on the CPU."""


class Blocks:
    """A token stream cut into sequences of `block_size` tokens, plus `extra` tokens of the next one. With extra=1
    (labels are the tokens shifted by one) neighbouring blocks share a token, so that each token is a label once. The
    stream is circular: a block shifted past the end continues at the beginning. In the causal layout the end of text at
    the stream's end is also the one at its beginning.
    """

    def __init__(self, tokens: Tokens, block_size: int, extra: int, documents: bool = True) -> None:
        """`documents`: whether `gather` returns document numbers; otherwise blocks are one plain stream."""
        self.tokens, self.block_size, self.extra, self.documents = tokens, block_size, extra, documents
        self.circle = len(tokens.ids) - extra
        if self.circle < block_size:
            more = "data.validation_fraction=F gives it more" if tokens.split == "validation" else "give it more text"
            raise RequestError(
                f"model.block_size={block_size}: the {tokens.split} part of the corpus has {len(tokens.ids):,} tokens "
                f"and one block takes {block_size + extra:,}; {more}, or lower model.block_size"
            )
        # Two rounds, so that a block past the end finds the beginning's documents after those of the end.
        self._starts = np.concatenate([tokens.starts[tokens.starts < self.circle], tokens.starts + self.circle])

    def __len__(self) -> int:
        return self.circle // self.block_size

    def gather(self, indices: np.ndarray, offset: int | np.ndarray = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """Gather blocks `indices [n]`, each shifted by `offset` tokens (a number, or one for each: `[n]`).

        Returns the ids, int64 `[n, block + extra]`, and each token's document, int32 `[n, block + extra]`, numbered
        from 0 in each row; None when every row lies within one document.
        """
        length = self.block_size + self.extra
        begins = (np.asarray(indices, dtype=np.int64) * self.block_size + offset) % self.circle
        ids = np.empty((len(begins), length), dtype=np.int64)
        for row, begin in zip(ids, begins.tolist(), strict=True):
            part = self.tokens.ids[begin : begin + length]
            row[: len(part)] = part
            if begin + length > self.circle + self.extra:  # past the end
                left = self.circle - begin
                row[left:] = self.tokens.ids[: length - left]
        return ids, self._documents(begins, length) if self.documents else None

    def _documents(self, begins: np.ndarray, length: int) -> np.ndarray | None:
        # A row's first token always belongs to document 0, so starts count from the second token on.
        low = np.searchsorted(self._starts, begins, side="right")
        counts = np.searchsorted(self._starts, begins + length, side="left") - low
        found = int(counts.sum())
        if not found:
            return None
        rows = np.repeat(np.arange(len(begins)), counts)
        nth = np.arange(found) - np.repeat(np.cumsum(counts) - counts, counts)
        marks = np.zeros((len(begins), length), dtype=np.int32)
        marks[rows, self._starts[low[rows] + nth] - begins[rows]] = 1
        return np.cumsum(marks, axis=1, dtype=np.int32)


# ---- order


def order(blocks: int, seed: int, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """Indices of the blocks of update `step` (from 0), int64 `[batch_size / world_size]`.

    Each epoch is a permutation of all blocks, seeded by (seed, epoch); batches run across the ends of epochs. The
    ranks' indices, concatenated, are the whole batch.
    """
    epochs, places = _places(blocks, step, batch_size, rank, world_size)
    found = np.empty(len(places), dtype=np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        found[here] = _permutation(blocks, seed, epoch)[places[here]]
    return found


def offsets(
    blocks: int, block_size: int, seed: int, step: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """Shifts of the blocks of `order` in tokens, int64 `[batch_size / world_size]`. Drawn per epoch, so that no token
    is always the first of its block, without context.
    """
    epochs, _ = _places(blocks, step, batch_size, rank, world_size)
    shifts = {epoch: _shift(block_size, seed, epoch) for epoch in np.unique(epochs).tolist()}
    return np.array([shifts[epoch] for epoch in epochs.tolist()], dtype=np.int64)


def _places(blocks: int, step: int, batch_size: int, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Epoch and position in it for each row of a batch, both `[batch_size / world_size]`."""
    assert batch_size % world_size == 0 and 0 <= rank < world_size, f"{batch_size=} over {world_size=}, {rank=}"
    share = batch_size // world_size
    first = step * batch_size + rank * share
    epochs, places = np.divmod(np.arange(first, first + share, dtype=np.int64), blocks)
    return epochs, places


@lru_cache(maxsize=2)  # a batch across an epoch's end needs two
def _permutation(blocks: int, seed: int, epoch: int) -> np.ndarray:
    found = np.random.default_rng([seed, epoch]).permutation(blocks)
    found.flags.writeable = False  # shared by all callers
    return found


def _shift(block_size: int, seed: int, epoch: int) -> int:
    return int(np.random.default_rng([seed, epoch, 1]).integers(block_size))


# ---- batches


class Batches:
    """Update number -> its tensors on the device. A thread prepares the next update meanwhile."""

    def __init__(
        self,
        blocks: Blocks,
        seed: int,
        batch_size: int,
        make: Make,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.blocks, self.seed, self.batch_size = blocks, seed, batch_size
        self.make, self.device, self.rank, self.world_size = make, device, rank, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[dict[str, Tensor]]] | None = None

    def get(self, step: int) -> dict[str, Tensor]:
        """The tensors of update `step`; any order works, consecutive steps are fast."""
        ready, self._next = self._next, None
        if ready is None or ready[0] != step:
            ready = step, self._thread.submit(self._fetch, step)
        batch = ready[1].result()
        self._next = step + 1, self._thread.submit(self._fetch, step + 1)
        if self.device.type == "cpu":
            return batch
        # The copy from pinned memory is asynchronous; the allocator keeps that memory until it is done.
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._next = None

    def _fetch(self, step: int) -> dict[str, Tensor]:
        count, size = len(self.blocks), self.blocks.block_size
        indices = order(count, self.seed, step, self.batch_size, self.rank, self.world_size)
        shifts = offsets(count, size, self.seed, step, self.batch_size, self.rank, self.world_size)
        batch = self.make(*self.blocks.gather(indices, shifts), step)
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if self.device.type == "cuda" else batch
