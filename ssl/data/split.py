"""Selects held-out documents, depending only on their content and sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def held_out(digests: NDArray[np.uint8], sizes: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """bool [documents] for at least two documents: whole documents with about `fraction` of the bytes; never none,
    never all. Documents are held out in the order of their SHA-256 `digests [documents, 32]` until they reach
    `fraction` of the bytes. A document larger than that share is skipped, so that a corpus of one book and many letters
    keeps the book; if the others do not suffice, the smallest large one is added. Equal documents stay on one side.
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
    group = np.empty(len(order), np.int64)  # equal documents share a number
    group[order] = np.append(0, np.cumsum((ranked[1:] != ranked[:-1]).any(axis=1)))
    for taken in (chosen, chosen[:-1], order[:1]):
        held = np.bincount(group[taken], minlength=int(group.max()) + 1).astype(bool)[group]
        if held.any() and not held.all():
            return held
    held = np.zeros(len(order), bool)  # all documents are equal: hold one out anyway
    held[order[0]] = True
    return held


def cut_at(text: NDArray[np.uint8], fraction: float) -> int:
    """Start of the held-out last part of a single document: byte int(n * (1 - fraction)), moved back to the start of
    its character; 0 if there is only one.
    """
    begins = int(len(text) * (1 - fraction))
    at = begins
    while at > 0 and _inside(text, at):
        at -= 1
    if at == 0:  # keep at least the first character
        at = 1
        while at < len(text) and _inside(text, at):
            at += 1
    return at if at < len(text) else 0


def _inside(text: NDArray[np.uint8], at: int) -> bool:
    """Whether the byte is a UTF-8 continuation byte."""
    return at < len(text) and int(text[at]) & 0xC0 == 0x80
