"""Selection and corruption of masked tokens, as pure functions of a random generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlgym.ssl.objectives.base import Vocabulary

if TYPE_CHECKING:
    from rlgym.ssl.config import MaskedConfig


def mask_tokens(
    ids: np.ndarray, config: MaskedConfig, vocabulary: Vocabulary, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask some of ids `[batch, time]`. Returns the corrupted ids and the mask, of the same shape. Every non-special
    token is masked with probability `rate`: by itself (Devlin et al. 2019), with its whole word, or in spans of
    geometric length (Joshi et al. 2020, arXiv:1907.10529, without their cut at 10 tokens).
    """
    special = np.zeros(vocabulary.vocab_size, dtype=bool)
    special[vocabulary.special_ids] = True
    hideable = ~special[ids]
    if config.unit == "word":
        hidden = _words(ids, hideable, vocabulary.starts_word, config.rate, generator)
    elif config.unit == "span":
        hidden = _spans(ids.size, config.rate, config.mean_span, generator).reshape(ids.shape)
    else:
        hidden = generator.random(ids.shape, dtype=np.float32) < config.rate
    hidden &= hideable
    return _corrupt(ids, hidden, config.corruption, special, vocabulary.mask_id, generator), hidden


def _words(
    ids: np.ndarray, hideable: np.ndarray, starts_word: np.ndarray, rate: float, generator: np.random.Generator
) -> np.ndarray:
    """Mask whole words, with probability `rate` each. A row's beginning counts as a word, even if it is the rest of
    one."""
    begins = starts_word[ids] | ~hideable
    begins[:, 1:] |= ~hideable[:, :-1]
    begins[:, 0] = True
    word = begins.ravel().cumsum() - 1
    chosen = generator.random(int(word[-1]) + 1, dtype=np.float32) < rate
    return np.asarray(chosen[word].reshape(ids.shape))


def _spans(tokens: int, rate: float, length: float, generator: np.random.Generator) -> np.ndarray:
    """Bool `[tokens]`: alternating masked and visible stretches of geometric length, with mean `length` and such that a
    share `rate` of all tokens is masked. Geometric lengths are memoryless, so the first token is no special case."""
    between = length * (1 - rate) / rate
    pairs = int(tokens / (length + between)) + 1
    first = bool(generator.random() < rate)
    stretches: list[np.ndarray] = []
    reached = 0
    while reached < tokens:
        drawn = np.stack([generator.geometric(1 / length, pairs), generator.geometric(1 / between, pairs)], axis=1)
        stretches.append(drawn if first else drawn[:, ::-1])
        reached += int(drawn.sum())
    lengths = np.concatenate(stretches).ravel()
    return np.resize([first, not first], len(lengths)).repeat(lengths)[:tokens]


def _corrupt(
    ids: np.ndarray,
    hidden: np.ndarray,
    corruption: str,
    special: np.ndarray,
    mask_id: int | None,
    generator: np.random.Generator,
) -> np.ndarray:
    """ids with [MASK] where `hidden`; with corruption=bert [MASK] at 80 %, a random non-special token at 10 %, and the
    original token at 10 % (Devlin et al. 2019)."""
    assert mask_id is not None, "refused when the tokenizer was built"
    inputs = ids.copy()
    if corruption == "mask":
        inputs[hidden] = mask_id
        return inputs
    at = np.flatnonzero(hidden)
    draw = generator.random(len(at), dtype=np.float32)
    flat = inputs.reshape(-1)
    flat[at[draw < 0.8]] = mask_id
    swapped = at[(draw >= 0.8) & (draw < 0.9)]
    flat[swapped] = generator.choice(np.flatnonzero(~special), len(swapped))
    return inputs


def deviation(tokens: int, config: MaskedConfig, word_length: float) -> float:
    """Standard deviation of the number of masked tokens among `tokens`. `word_length`: mean tokens per word.
    Independent units: sqrt(n p (1 - p)), times sqrt(E[length^2] / m) for units of mean length m, which is sqrt(2 m - 1)
    for geometric lengths. Spans are a two-state Markov chain whose correlation decays by `kept` per token.
    """
    inflation = 1.0
    if config.unit == "word":
        inflation = 2 * word_length - 1
    elif config.unit == "span":
        kept = 1 - 1 / config.mean_span - config.rate / (config.mean_span * (1 - config.rate))
        inflation = (1 + kept) / (1 - kept)
    return float(np.sqrt(tokens * config.rate * (1 - config.rate) * inflation))
