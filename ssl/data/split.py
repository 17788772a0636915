"""Which documents are held out for validation: a function of their content and sizes alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def held_out(digests: NDArray[np.uint8], sizes: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """bool [documents] of at least two documents: whole documents with `fraction` of the bytes; never none, never all.

    In the order of their SHA-256 `digests [documents, 32]`, documents are held out until they make up `fraction` of the
    bytes. One that is larger than that share by itself is passed over, lest a corpus of one book and many letters lose
    the book; should the others not do, the smallest of the large ones joins them. Equal documents stay on one side.
    """
    target = fraction * float(sizes.sum())
    words = np.ascontiguousarray(digests).view(">u8")  # [documents, 4]
    order = np.lexsort(words.T[::-1])
    small = order[sizes[order] <= target]
    reached = np.cumsum(sizes[small])
    chosen = small[: int(np.searchsorted(reached, target)) + 1]
    if not len(small) or reached[-1] < target:
        large = order[sizes[order] > target]
        chosen = np.append(chosen, large[np.argmin(sizes[large])]) if len(large) else chosen
    ranked = words[order]
    group = np.empty(len(order), np.int64)  # equal documents have the same number
    group[order] = np.append(0, np.cumsum((ranked[1:] != ranked[:-1]).any(axis=1)))
    for taken in (chosen, chosen[:-1], order[:1]):
        held = np.bincount(group[taken], minlength=int(group.max()) + 1).astype(bool)[group]
        if held.any() and not held.all():
            return held
    held = np.zeros(len(order), bool)  # one document over and over: equal or not, one is held out
    held[order[0]] = True
    return held


def cut_at(text: NDArray[np.uint8], fraction: float) -> int:
    """Where a single document's held-out last part begins, at the first byte of a character; 0 when it has but one.

    Byte int(n * (1 - fraction)), moved back to its character's begin.
    """
    begins = int(len(text) * (1 - fraction))
    at = begins
    while at > 0 and _inside(text, at):
        at -= 1
    if at == 0:  # the first character stays in any case
        at = 1
        while at < len(text) and _inside(text, at):
            at += 1
    return at if at < len(text) else 0


def _inside(text: NDArray[np.uint8], at: int) -> bool:
    """Whether the byte continues a character of UTF-8."""
    return at < len(text) and int(text[at]) & 0xC0 == 0x80
