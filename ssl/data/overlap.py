"""How much of the validation text stands in the training text as well, counted in runs of 13 words.

The measure of Brown et al. 2020 (arXiv:2005.14165, appendix C): exact duplicates are one thing, a licence header or a
copied function in half of the files another. Words are what ASCII whitespace separates, ASCII letters in lower case;
runs do not cross documents. Runs are compared by 64-bit hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgym.ssl.data.corpus import Corpus

WORDS = 13
LIMIT = 2_000_000
"""Validation runs that are compared at most; of more, those whose hashes end in zeros are: a sample of runs."""

CHUNK = 1 << 18
"""Bytes worked on at once: the arrays stay in the cache of a core."""

GAP = 1 << 13
"""Bytes of unwanted text that are cheaper to go through than to begin anew behind them."""

_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2**64
_RUN_BASE = 0xD6E8FEB86659FD93

UInts = NDArray[np.uint64]


def overlap(corpus: Corpus) -> dict[str, Any]:
    """{"ngrams": runs of 13 words in the validation documents, "shared": those that training documents hold too,
    "share": shared / ngrams, "documents": validation documents with any, "sampled": share of all runs looked at}."""
    return between(corpus, ~corpus.held_out, corpus, corpus.held_out)


def between(
    training: Corpus, trained: NDArray[np.bool_], evaluated: Corpus, chosen: NDArray[np.bool_]
) -> dict[str, Any]:
    """The same of the `chosen` [documents] of one corpus, against the `trained` ones of another."""
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
    """For hashes: the places in `wanted`, which is sorted, of those that it holds.

    A binary search for every run would take longer than all the rest: most are told by one look into a small table,
    the others by a look at the few wanted ones that begin with the same bits.
    """
    bits = min(22, len(wanted).bit_length() + 2)
    rest = np.uint64(64 - bits)
    begins = wanted >> rest
    any_begins = np.zeros(1 << bits, bool)
    any_begins[begins] = True
    first = np.searchsorted(begins, np.arange(1 << bits, dtype=np.uint64))
    padded = np.append(wanted, np.uint64(2**64 - 1))  # no hash is looked for behind it

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
    """(hashes, documents, bits): all runs, or those whose hashes end in `bits` zeros."""
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
    """Bits of a polynomial's hash stirred, so that any of them can be taken for random."""
    mixed = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


# ---- runs of words


def _runs(corpus: Corpus, wanted: NDArray[np.bool_], bits: int) -> Iterator[tuple[UInts, NDArray[np.int64]]]:
    """(hashes, documents) of the runs in the wanted documents, part by part; sampled by `bits`."""
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
    """(begin, end) of ranges of bytes, in order, that hold the wanted documents and cut no word in two."""
    edges = corpus.starts[np.flatnonzero(np.diff(wanted, prepend=False, append=False))]
    far = np.flatnonzero(edges[2::2] - edges[1:-1:2] > GAP)  # gaps that are jumped over
    begins, stops = edges[np.append(0, 2 * far + 2)].tolist(), edges[np.append(2 * far + 1, -1)].tolist()
    for begin, stop in zip(begins, stops, strict=True):
        while begin < stop:
            end = min(begin + CHUNK, stop)
            if end < stop:
                spaces = np.flatnonzero(_space(corpus.text[begin:end]))
                end = begin + int(spaces[-1]) + 1 if len(spaces) else end  # text without spaces is cut anywhere
            yield begin, end
            begin = end


def _words(corpus: Corpus, begin: int, end: int) -> tuple[UInts, NDArray[np.int64]]:
    """(hashes, documents) of the words in a range of bytes."""
    text = corpus.text[begin:end]
    inside = ~_space(text)
    first, last = (int(np.searchsorted(corpus.starts, at, "right")) for at in (begin, end - 1))
    borders = corpus.starts[first:last] - begin  # where documents begin, within the range
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
    # sum(byte * BASE**place) of a word, from sums since the begin of the range, moved to the place of its first byte.
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum(letters.astype(np.uint64) * _PLACES[: len(text)], out=sums[1:])
    words = _mixed((sums[ends] - sums[starts]) * _INVERSES[starts])
    counts = np.diff(np.searchsorted(starts, borders), prepend=0, append=len(starts))
    return words, np.repeat(np.arange(first - 1, last), counts)


def _space(text: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where ASCII whitespace stands: blank, tab, the four kinds of line end."""
    space: NDArray[np.bool_] = (text == ord(" ")) | ((text >= ord("\t")) & (text <= ord("\r")))
    return space


def _powers(base: int, count: int) -> UInts:
    """1, base, base**2, ... modulo 2**64."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


_PLACES = _powers(_BASE, CHUNK)
_INVERSES = _powers(pow(_BASE, -1, 1 << 64), CHUNK)
