"""A corpus as one token stream on disk, prepared once and memory-mapped.

    causal   <|endoftext|> t t t <|endoftext|> t t ... t <|endoftext|>
             <s> t t t </s> <s> t t ... t </s> <s> if bos and eos differ
    masked   [CLS] t t t [SEP] [CLS] t t ... t [SEP]

In the causal layout the stream also ends with the first token of documents: every token of a text has context from its
own document, and a document's end is predicted like any other token.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from rlgym.common.atomic_io import read_json, to_json
from rlgym.ssl.data.cache import save_array, staged
from rlgym.ssl.data.pieces import pieces, reading

if TYPE_CHECKING:
    from rlgym.ssl.data.corpus import Corpus
    from rlgym.ssl.data.progress import Report
    from rlgym.ssl.data.tokenizer import Tokenizer

SPLITS = ("train", "validation")
LAYOUT = 1  # version of the files' format; a new one rebuilds them
PIECE = 1 << 17  # bytes per piece of a long document
DOCUMENTS_AT_ONCE = 8_192  # bytes per batch of short documents


@dataclass(frozen=True)
class Tokens:
    """The tokens of a corpus's training or validation documents."""

    ids: np.ndarray
    """Memory-mapped uint16 (uint32 where the vocabulary is larger) `[tokens]`."""
    starts: np.ndarray
    """int64 `[documents]`: index of each document's first token, its `<|endoftext|>` or `[CLS]`."""
    text_bytes: int
    """UTF-8 bytes of the documents."""
    split: str = "train"
    """`train` or `validation`."""


def tokenize(corpus: Corpus, tokenizer: Tokenizer, causal: bool, report: Report) -> tuple[Tokens, Tokens]:
    """The corpus's training and validation tokens, cached. The encoder uses all cores while a thread writes the
    previous batch. Memory is bounded by two batches.
    """
    folder = corpus.folder.parent.parent / "tokens" / _key(corpus, tokenizer, causal)
    found = _open(folder)
    if found is None:
        shutil.rmtree(folder, ignore_errors=True)  # missing or damaged
        with staged(folder) as work:
            _prepare(work, corpus, tokenizer, causal, report)
        found = _open(folder)
        assert found is not None, f"{folder} was just written"
    return found


def _key(corpus: Corpus, tokenizer: Tokenizer, causal: bool) -> str:
    content = json.dumps([LAYOUT, corpus.fingerprint, tokenizer.fingerprint, causal])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _open(folder: Path) -> tuple[Tokens, Tokens] | None:
    """The prepared tokens; None if missing or incomplete."""
    try:
        facts = read_json(folder / "facts.json")
        train, validation = (_open_split(folder, split, facts[split]) for split in SPLITS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return train, validation


def _open_split(folder: Path, split: str, facts: dict[str, Any]) -> Tokens:
    ids = np.memmap(folder / f"{split}.bin", dtype=np.dtype(facts["dtype"]), mode="r")
    starts = np.load(folder / f"{split}_starts.npy", allow_pickle=False)
    if len(ids) != facts["tokens"] or len(starts) != facts["documents"]:
        raise ValueError(f"{folder}: {split} is not what was written")
    return Tokens(ids, starts, facts["text_bytes"], split)


# ---- preparing


def _prepare(folder: Path, corpus: Corpus, tokenizer: Tokenizer, causal: bool, report: Report) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # set explicitly, it does not warn when the process forks
    total, done = len(corpus.text), 0
    facts = {}
    report("tokenizing", 0, total)
    for split in SPLITS:
        chosen = np.flatnonzero(corpus.held_out == (split == "validation"))
        with (folder / f"{split}.bin").open("wb") as file, ThreadPoolExecutor(1) as thread:
            stream = _Stream(file, tokenizer, causal)
            written: Future[None] | None = None
            for batch in _batches(corpus, chosen):
                encodings = tokenizer.backend.encode_batch_fast([p.text for p in batch], add_special_tokens=False)
                if written is not None:
                    written.result()
                written = thread.submit(stream.write, batch, encodings)
                del encodings
                done += sum(piece.bytes for piece in batch)
                report("tokenizing", done, total)
            if written is not None:
                written.result()
            stream.close()
        save_array(folder / f"{split}_starts.npy", np.array(stream.starts, dtype=np.int64))
        facts[split] = {
            "tokens": stream.tokens,
            "documents": len(chosen),
            "text_bytes": int((corpus.starts[chosen + 1] - corpus.starts[chosen]).sum()),
            "dtype": stream.dtype.name,
        }
    (folder / "facts.json").write_text(to_json(facts))


@dataclass(frozen=True)
class _Piece:
    text: str
    bytes: int
    first: bool
    last: bool


def _batches(corpus: Corpus, documents: np.ndarray) -> Iterator[list[_Piece]]:
    """Group pieces into batches large enough for all cores and small enough to hold twice."""
    most = PIECE * max(16, 2 * (os.cpu_count() or 1))
    source = _pieces(corpus, documents)
    batch: list[_Piece] = []
    size = 0
    for piece in source:
        batch.append(piece)
        size += piece.bytes
        if size >= most or len(batch) >= DOCUMENTS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pieces(corpus: Corpus, documents: np.ndarray) -> Iterator[_Piece]:
    with reading(corpus.text) as read:
        for document in documents:
            begin, end = int(corpus.starts[document]), int(corpus.starts[document + 1])
            at = begin
            for text in pieces(read, begin, end, PIECE):
                size = len(text) if text.isascii() else len(text.encode())
                yield _Piece(text, size, first=at == begin, last=at + size == end)
                at += size


class _Stream:
    """Writes the token file of one split, in its layout."""

    def __init__(self, file: BinaryIO, tokenizer: Tokenizer, causal: bool) -> None:
        self.file, self.tokenizer = file, tokenizer
        self.dtype = np.dtype(np.uint32 if tokenizer.vocab_size > 65_535 else np.uint16)
        self.begin, self.causal = tokenizer.bos_id, causal
        self.end = None if causal and tokenizer.eos_id == tokenizer.bos_id else tokenizer.eos_id
        self.tokens = 0
        self.starts: list[int] = []

    def write(self, batch: list[_Piece], encodings: list[Any]) -> None:
        out = array("I")
        for piece, encoding in zip(batch, encodings, strict=True):
            if piece.first:
                self.starts.append(self.tokens + len(out))
                out.append(self.begin)
            ids = encoding.ids
            if self.tokenizer.characters is not None and len(ids) != len(piece.text):
                self.tokenizer.check(piece.text)
            out.extend(ids)
            if piece.last and self.end is not None:
                out.append(self.end)
        self._append(out)

    def close(self) -> None:
        if self.causal:
            self._append(array("I", [self.begin]))

    def _append(self, out: array[int]) -> None:
        self.file.write(np.frombuffer(out, dtype=np.uintc).astype(self.dtype).data)
        self.tokens += len(out)
