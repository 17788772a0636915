"""From the configs of data and tokenizer to tokens on disk, with the data card."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgym.common.atomic_io import read_json, to_json, write_atomic
from rlgym.ssl.data.build_tokenizer import build_tokenizer
from rlgym.ssl.data.card import card
from rlgym.ssl.data.corpus import Corpus, build_corpus, check_separator
from rlgym.ssl.data.overlap import overlap
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.data.tokens import Tokens, tokenize

if TYPE_CHECKING:
    from rlgym.config.schema import PretrainConfig
    from rlgym.ssl.data.progress import Report


@dataclass(frozen=True)
class Prepared:
    """The data for learning from a corpus."""

    corpus: Corpus
    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens
    facts: dict[str, Any]
    """Facts for the run's manifest, as JSON; the fingerprints identify data and tokenizer."""
    card: str
    """The data card, Markdown."""


def prepare(config: PretrainConfig, causal: bool, report: Report, run: Path | None = None) -> Prepared:
    """Prepare corpus, tokenizer and tokens, each cached. `run`: the folder of a resumed run, whose tokenizer is used
    instead of the config's.
    """
    corpus = build_corpus(config.data, report)
    if run is None:
        check_separator(corpus, config.data)
    tokenizer = Tokenizer.of_run(run) if run else build_tokenizer(config.tokenizer, corpus, causal, report)
    train, validation = tokenize(corpus, tokenizer, causal, report)
    shared = _overlap(corpus, report)
    tokens = {part.split: len(part.ids) for part in (train, validation)}
    facts = {
        **corpus.facts,
        "fingerprint": corpus.fingerprint,
        "tokens": tokens,
        "text_bytes": {part.split: part.text_bytes for part in (train, validation)},
        "overlap": shared,
        "tokenizer": {
            "name": config.tokenizer.name,
            "vocab_size": tokenizer.vocab_size,
            "vocabulary": tokenizer.vocabulary,
            "fingerprint": tokenizer.fingerprint,
        },
    }
    return Prepared(corpus, tokenizer, train, validation, facts, card(corpus, tokens, shared))


def _overlap(corpus: Corpus, report: Report) -> dict[str, Any]:
    """Computed once per corpus, as it reads all of it."""
    known = corpus.folder / "overlap.json"
    with suppress(OSError, ValueError):
        return read_json(known)
    report("comparing validation with training text", 0, 0)
    found = overlap(corpus)
    with suppress(OSError):  # the next run computes it again
        write_atomic(known, to_json(found), f".{known.name}-{os.getpid()}.tmp")
    return found
