"""Measures the overlap of validation text with training text in 13-grams of words (Brown et al. 2020, arXiv:2005.14165,
appendix C), which also finds shared licence headers and copied functions. Words are separated by ASCII whitespace, with
ASCII letters lower-cased; n-grams do not cross documents, and are compared by 64-bit hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgym.ssl.data.corpus import Corpus

WORDS = 13
LIMIT = 2_000_000
"""Maximum number of validation n-grams; beyond it, those whose hashes end in zeros are sampled."""

CHUNK = 1 << 18
"""Bytes processed at once, so that arrays stay in a core's cache."""

GAP = 1 << 13
"""Gaps of at most this many bytes are processed instead of skipped."""

_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2**64
_RUN_BASE = 0xD6E8FEB86659FD93

UInts = NDArray[np.uint64]


def overlap(corpus: Corpus) -> dict[str, Any]:
    """{"ngrams": 13-grams of the validation documents, "shared": those also in training documents, "share": shared /
    ngrams, "documents": validation documents with shared ones, "sampled": share of n-grams compared}."""
    return between(corpus, ~corpus.held_out, corpus, corpus.held_out)


def between(
    training: Corpus, trained: NDArray[np.bool_], evaluated: Corpus, chosen: NDArray[np.bool_]
) -> dict[str, Any]:
    """Measure the overlap of the `chosen` [documents] of one corpus with the `trained` ones of another."""
    runs, places, bits = _validation_runs(evaluated, chosen)
    wanted, which = np.unique(runs, return_inverse=True)
    found = np.zeros(len(wanted), bool)
    if len(wanted):
        look_up = _lookup(wanted)
        for hashes, _ in _runs(training, trained, bits):
            found[look_up(hashes)] = True
    shared = found[which]
    return {
        "ngrams": len(runs),
        "shared": int(shared.sum()),
        "share": float(shared.mean()) if len(runs) else 0.0,
        "documents": len(np.unique(places[shared])),
        "sampled": 0.5**bits,
    }


def _lookup(wanted: UInts) -> Callable[[UInts], NDArray[np.int64]]:
    """Positions of hashes in the sorted `wanted`, for those it contains. Faster than a binary search per n-gram: most
    are rejected by a small table, the others compared with the few entries that share leading bits.
    """
    bits = min(22, len(wanted).bit_length() + 2)
    rest = np.uint64(64 - bits)
    begins = wanted >> rest
    any_begins = np.zeros(1 << bits, bool)
    any_begins[begins] = True
    first = np.searchsorted(begins, np.arange(1 << bits, dtype=np.uint64))
    padded = np.append(wanted, np.uint64(2**64 - 1))  # sentinel: no hash is searched beyond it

    def places(hashes: UInts) -> NDArray[np.int64]:
        hashes = hashes[any_begins[hashes >> rest]]
        at = first[hashes >> rest]
        parts = []
        while len(hashes):
            there = padded[at]
            parts.append(at[(there == hashes) & (at < len(wanted))])
            further = there < hashes
            at, hashes = at[further] + 1, hashes[further]
        return np.concatenate([*parts, np.zeros(0, np.int64)])

    return places


def _validation_runs(corpus: Corpus, chosen: NDArray[np.bool_]) -> tuple[UInts, NDArray[np.int64], int]:
    """(hashes, documents, bits): all n-grams, or those whose hashes end in `bits` zeros."""
    parts: list[tuple[UInts, NDArray[np.int64]]] = []
    bits = count = 0
    for part in _runs(corpus, chosen, 0):
        parts.append(_sampled(*part, bits))
        count += len(parts[-1][0])
        while count > LIMIT:
            bits += 1
            parts = [_sampled(*part, bits) for part in parts]
            count = sum(len(hashes) for hashes, _ in parts)
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64), bits
    return np.concatenate([h for h, _ in parts]), np.concatenate([d for _, d in parts]), bits


def _sampled(hashes: UInts, documents: NDArray[np.int64], bits: int) -> tuple[UInts, NDArray[np.int64]]:
    if not bits:
        return hashes, documents
    kept = hashes & np.uint64((1 << bits) - 1) == 0
    return hashes[kept], documents[kept]


def _mixed(hashes: UInts) -> UInts:
    """Mix the bits of a polynomial hash, so that any of them can be used as random."""
    mixed = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


# ---- runs of words


def _runs(corpus: Corpus, wanted: NDArray[np.bool_], bits: int) -> Iterator[tuple[UInts, NDArray[np.int64]]]:
    """(hashes, documents) of the n-grams of the wanted documents, part by part; sampled by `bits`."""
    held_words = np.zeros(0, np.uint64)
    held_documents = np.zeros(0, np.int64)
    powers = _powers(_RUN_BASE, WORDS)
    for begin, end in _chunks(corpus, wanted):
        words, documents = _words(corpus, begin, end)
        words = np.concatenate([held_words, words])
        documents = np.concatenate([held_documents, documents])
        count = len(words) - WORDS + 1
        if count > 0:
            hashes = words[:count].copy()
            for k in range(1, WORDS):
                hashes += words[k : k + count] * powers[k]
            first = documents[:count]
            inside = (first == documents[WORDS - 1 :]) & wanted[first]
            yield _sampled(_mixed(hashes[inside]), first[inside], bits)
        held_words, held_documents = words[-(WORDS - 1) :], documents[-(WORDS - 1) :]


def _chunks(corpus: Corpus, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(begin, end) of byte ranges, in order, that cover the wanted documents and split no word."""
    edges = corpus.starts[np.flatnonzero(np.diff(wanted, prepend=False, append=False))]
    far = np.flatnonzero(edges[2::2] - edges[1:-1:2] > GAP)  # gaps to skip
    begins, stops = edges[np.append(0, 2 * far + 2)].tolist(), edges[np.append(2 * far + 1, -1)].tolist()
    for begin, stop in zip(begins, stops, strict=True):
        while begin < stop:
            end = min(begin + CHUNK, stop)
            if end < stop:
                spaces = np.flatnonzero(_space(corpus.text[begin:end]))
                end = begin + int(spaces[-1]) + 1 if len(spaces) else end  # text without spaces may be cut anywhere
            yield begin, end
            begin = end


def _words(corpus: Corpus, begin: int, end: int) -> tuple[UInts, NDArray[np.int64]]:
    """(hashes, documents) of the words in a range of bytes."""
    text = corpus.text[begin:end]
    inside = ~_space(text)
    first, last = (int(np.searchsorted(corpus.starts, at, "right")) for at in (begin, end - 1))
    borders = corpus.starts[first:last] - begin  # starts of documents in the range
    before = np.empty_like(inside)  # whether the byte before belongs to the same word
    before[0] = False
    before[1:] = inside[:-1]
    before[borders] = False
    starts = np.flatnonzero(inside & ~before)
    after = np.empty_like(inside)
    after[:-1] = inside[1:]
    after[-1] = False
    after[borders[borders > 0] - 1] = False
    ends = np.flatnonzero(inside & ~after) + 1
    letters = np.frombuffer(text.tobytes().lower(), np.uint8)
    # sum(byte * BASE**place) of a word, from cumulative sums, shifted to the position of its first byte.
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum(letters.astype(np.uint64) * _PLACES[: len(text)], out=sums[1:])
    words = _mixed((sums[ends] - sums[starts]) * _INVERSES[starts])
    counts = np.diff(np.searchsorted(starts, borders), prepend=0, append=len(starts))
    return words, np.repeat(np.arange(first - 1, last), counts)


def _space(text: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mask of ASCII whitespace: space, tab, the four kinds of line ends."""
    space: NDArray[np.bool_] = (text == ord(" ")) | ((text >= ord("\t")) & (text <= ord("\r")))
    return space


def _powers(base: int, count: int) -> UInts:
    """1, base, base**2, ... modulo 2**64."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


_PLACES = _powers(_BASE, CHUNK)
_INVERSES = _powers(pow(_BASE, -1, 1 << 64), CHUNK)
