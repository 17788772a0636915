"""Builds the tokenizer of a config: trained on the corpus and cached, or an existing one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from rlgym.ssl.data.cache import staged
from rlgym.ssl.data.existing_tokenizer import existing
from rlgym.ssl.data.pieces import pieces, reading
from rlgym.ssl.data.tokenizer import CAUSAL, MASKED, Tokenizer, byte_alphabet

if TYPE_CHECKING:
    import tokenizers

    from rlgym.ssl.config import BpeTokenizer, CharTokenizer
    from rlgym.ssl.data.corpus import Corpus
    from rlgym.ssl.data.progress import Report

WINDOW = 1 << 16  # bytes of a window of training text


def build_tokenizer(config: Any, corpus: Corpus, causal: bool, report: Report) -> Tokenizer:
    """The tokenizer of `config` (a *Tokenizer of ssl/config.py), trained on the training documents if it learns.
    Trained ones are cached beside the corpora and reused for the same text and settings.
    """
    if config.name == "existing":
        return existing(config, causal)
    roles = CAUSAL if causal else MASKED
    if config.name == "byte":
        return Tokenizer(byte_backend(roles), roles)
    folder = corpus.folder.parent.parent / "tokenizers" / _key(config, corpus, roles)
    if not folder.is_dir():
        backend = (
            _bpe_backend(config, corpus, roles, report)
            if config.name == "bpe"
            else _char_backend(config, corpus, roles, report)
        )
        with staged(folder) as work:
            Tokenizer(backend, roles).save(work)
    return Tokenizer.load(folder)


def _key(config: Any, corpus: Corpus, roles: Mapping[str, str]) -> str:
    from tokenizers import __version__

    content = json.dumps([asdict(config), corpus.fingerprint, roles, __version__], sort_keys=True)
    return f"{config.name}-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def _finish(backend: tokenizers.Tokenizer, roles: Mapping[str, str]) -> tokenizers.Tokenizer:
    """Declare the special tokens; for masked models transformers adds [CLS] and [SEP] around texts."""
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _unique(roles)])
    if "mask_token" in roles:
        ends = [(roles[role], backend.token_to_id(roles[role])) for role in ("cls_token", "sep_token")]
        (cls, _), (sep, _) = ends
        backend.post_processor = TemplateProcessing(
            single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=ends
        )
    return backend


def _unique(roles: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(roles.values()))


def byte_backend(roles: Mapping[str, str]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate([*_unique(roles), *byte_alphabet()])}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _finish(backend, roles)


def _char_backend(
    config: CharTokenizer, corpus: Corpus, roles: Mapping[str, str], report: Report
) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    characters: set[str] = set()
    for text in training_text(corpus, None, "collecting characters", report):
        characters.update(text)
    tokens = [*_unique(roles), *sorted(characters)]
    if config.byte_fallback:
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab=vocab, merges=[], byte_fallback=config.byte_fallback))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _finish(backend, roles)


def _bpe_backend(
    config: BpeTokenizer, corpus: Corpus, roles: Mapping[str, str], report: Report
) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=_unique(roles),
        initial_alphabet=byte_alphabet(),
        show_progress=False,
    )
    text = training_text(corpus, config.training_bytes, "training the tokenizer", report)
    backend.train_from_iterator(text, trainer)
    return _finish(backend, roles)


def training_text(corpus: Corpus, at_most: int | None, what: str, report: Report) -> Iterator[str]:
    """The training documents' text in pieces of at most 64 KB, each from one document. Texts larger than `at_most`
    bytes are sampled by evenly spread windows of 64 KB.
    """
    begins, ends = corpus.starts[:-1][~corpus.held_out], corpus.starts[1:][~corpus.held_out]
    before = np.concatenate([[0], np.cumsum(ends - begins)])  # bytes of training text before each document
    total = int(before[-1])
    windows = [(0, total)]
    if at_most is not None and total > at_most:
        size = min(WINDOW, at_most)
        count = at_most // size
        windows = [(low, low + size) for low in (i * (total - size) // max(1, count - 1) for i in range(count))]
    total, done = sum(high - low for low, high in windows), 0
    report(what, 0, total)
    with reading(corpus.text) as read:
        for low, high in windows:
            document = int(np.searchsorted(before, low, side="right")) - 1
            while low < high:
                end = min(high, int(before[document + 1]))
                shift = int(begins[document]) - int(before[document])
                for text in pieces(read, *_whole_characters(corpus.text, low + shift, end + shift), WINDOW):
                    yield text
                    done += len(text)
                    report(what, min(done, total), total)
                low = end
                document += 1


def _whole_characters(text: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """Move low and high forward to the start of a character (or the end)."""
    low, high = (
        next((at for at in range(edge, min(edge + 4, len(text))) if text[at] & 0xC0 != 0x80), edge)
        for edge in (low, high)
    )
    return low, high
