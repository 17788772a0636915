"""What is hidden and what stands there: rates within binomial bounds, beside transformers' own collator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from rlgym.ssl.config import MaskedConfig
from rlgym.ssl.objectives.masking import deviation, mask_tokens
from tests.ssl.toy_model import ToyVocabulary, toy_ids

WORDS = ToyVocabulary()
ROWS, TIME = 200, 128


def text(seed: int = 0) -> np.ndarray:
    """Rows of several documents `[CLS] ... [SEP]`, tokens drawn evenly, the last row's end padded."""
    ids = toy_ids(ROWS, TIME, seed)
    ids[:, 0], ids[:, 60], ids[:, 61], ids[:, -1] = 1, 2, 1, 2
    ids[-1, 100:] = 0
    return ids


def masked(config: MaskedConfig, seed: int = 0, vocabulary: Any = WORDS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = text()
    before = ids.copy()
    inputs, hidden = mask_tokens(ids, config, vocabulary, np.random.default_rng(seed))
    assert (ids == before).all()
    return ids, inputs, hidden


def within(count: float, n: float, p: float, inflation: float = 1.0) -> bool:
    """Whether `count` of `n` is what a probability of `p` gives, to 4.5 standard deviations."""
    return abs(count - n * p) < 4.5 * math.sqrt(n * p * (1 - p) * inflation)


@dataclass
class Counts:
    """How a masking treated the tokens that are not special."""

    text: int
    hidden: int
    mask: int
    kept: int

    @classmethod
    def of(cls, ids: np.ndarray, inputs: np.ndarray, hidden: np.ndarray) -> Counts:
        assert not hidden[ids < 4].any() and (inputs[~hidden] == ids[~hidden]).all()
        new, old = inputs[hidden], ids[hidden]
        return cls(int((ids >= 4).sum()), len(new), int((new == 3).sum()), int((new == old).sum()))


def collator(rate: float) -> Any:
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijkl"]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[PAD]"))
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=rate, seed=7)


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_rates_are_those_of_transformers_collator(rate: float) -> None:
    """Both are held to the same binomial bounds. The collator also draws special tokens as random ones; we do not."""
    ours = Counts.of(*masked(MaskedConfig(rate=rate)))
    ids = text()
    batch = collator(rate)([{"input_ids": row} for row in torch.from_numpy(ids)])
    theirs = Counts.of(ids, batch["input_ids"].numpy(), batch["labels"].numpy() != -100)
    for found, candidates, mask_drawn in ((ours, 12, 0.0), (theirs, 16, 1 / 16)):
        assert found.text == ours.text
        assert within(found.hidden, found.text, rate)
        assert within(found.mask, found.hidden, 0.8 + 0.1 * mask_drawn)
        assert within(found.kept, found.hidden, 0.1 + 0.1 / candidates)


def test_random_tokens_are_even_over_text_and_never_special() -> None:
    ids, inputs, hidden = masked(MaskedConfig(rate=0.6))
    swapped = hidden & (inputs != 3) & (inputs != ids)
    counts = np.bincount(inputs[swapped], minlength=16)
    assert not counts[:4].any() and all(within(count, counts.sum(), 1 / 12) for count in counts[4:])


def test_all_mask_shows_nothing_but_masks() -> None:
    _, inputs, hidden = masked(MaskedConfig(rate=0.5, corruption="mask"))
    assert (inputs[hidden] == 3).all() and hidden.any()


def words(ids: np.ndarray) -> list[list[tuple[int, int]]]:
    """Places of each word, one after the other, by reading along the rows."""
    found: list[list[tuple[int, int]]] = []
    for row in range(len(ids)):
        fresh = True
        for column, token in enumerate(ids[row].tolist()):
            if token < 4:
                fresh = True
                continue
            if fresh or WORDS.starts_word[token]:
                found.append([])
            found[-1].append((row, column))
            fresh = False
    return found


def test_words_are_hidden_whole_and_at_the_rate() -> None:
    ids, inputs, hidden = masked(MaskedConfig(rate=0.3, unit="word"))
    every = words(ids)
    assert any(len(word) > 3 for word in every)
    chosen = 0
    for word in every:
        states = {bool(hidden[place]) for place in word}
        assert len(states) == 1, word
        chosen += states.pop()
    assert within(chosen, len(every), 0.3)
    assert within(hidden.sum(), (ids >= 4).sum(), 0.3, inflation=3)
    Counts.of(ids, inputs, hidden)


@pytest.mark.parametrize(("rate", "length"), [(0.15, 3.8), (0.3, None), (0.5, 1.0)])
def test_spans_are_geometric_and_reach_the_rate(rate: float, length: float | None) -> None:
    config = MaskedConfig(rate=rate, unit="span", span_length=length)
    ids = toy_ids(1, 400_000)
    _, hidden = mask_tokens(ids, config, WORDS, np.random.default_rng(3))
    edges = np.flatnonzero(np.diff(hidden[0].astype(int), prepend=0, append=0))
    lengths = edges[1::2] - edges[::2]
    mean = length or 3.0
    spread = math.sqrt(mean * (mean - 1)) / math.sqrt(len(lengths))  # of the mean of geometric lengths
    assert abs(lengths.mean() - mean) < 4.5 * spread + 1e-9
    for n in (1, 2, 5):
        assert within((lengths == n).sum(), len(lengths), (1 / mean) * (1 - 1 / mean) ** (n - 1)) or mean == 1
    assert abs(hidden.sum() - ids.size * rate) < 4.5 * deviation(ids.size, config, 1.0) + 1


def test_spans_leave_special_tokens_and_begin_anywhere() -> None:
    ids, inputs, hidden = masked(MaskedConfig(rate=0.4, unit="span"))
    found = Counts.of(ids, inputs, hidden)
    assert within(found.hidden, found.text, 0.4, inflation=4)
    columns = hidden[:, 1:60].mean(0)  # no column is favoured, the first ones not either
    assert (abs(columns - 0.4) < 4.5 * math.sqrt(0.24 / ROWS)).all()


def test_a_rate_that_spans_cannot_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="rate=0.8 with unit=span needs span_length=4 or more"):
        MaskedConfig(rate=0.8, unit="span")
    config = MaskedConfig(rate=0.8, unit="span", span_length=4.001)
    _, hidden = mask_tokens(toy_ids(1, 100_000), config, WORDS, np.random.default_rng(0))
    assert abs(hidden.mean() - 0.8) < 0.01


@pytest.mark.parametrize("config", [MaskedConfig(), MaskedConfig(unit="word"), MaskedConfig(rate=0.2, unit="span")])
def test_masks_are_a_pure_function_of_the_generator(config: MaskedConfig) -> None:
    first, again, other = (masked(config, seed) for seed in (0, 0, 1))
    assert (first[1] == again[1]).all() and (first[2] == again[2]).all()
    assert (first[2] != other[2]).any()


@pytest.mark.parametrize(
    "config",
    [MaskedConfig(rate=0.15), MaskedConfig(rate=0.15, unit="word"), MaskedConfig(rate=0.3, unit="span", span_length=6)],
)
def test_the_deviation_is_that_of_many_masks(config: MaskedConfig) -> None:
    ids = toy_ids(8, 256)
    generator = np.random.default_rng(0)
    counts = np.array([mask_tokens(ids, config, WORDS, generator)[1].sum() for _ in range(600)])
    # Half of these tokens begin a word, at random: words of geometric lengths, 2 tokens in the mean.
    assert abs(counts.std() / deviation(ids.size, config, 2.0) - 1) < 0.15
    assert abs(counts.mean() - ids.size * config.rate) < 0.3 * counts.std()


def test_all_special_text_hides_nothing() -> None:
    ids = np.ones((2, 5), dtype=np.int64)
    for unit in ("token", "word", "span"):
        inputs, hidden = mask_tokens(ids, MaskedConfig(unit=unit), WORDS, np.random.default_rng(0))
        assert not hidden.any() and (inputs == ids).all()
