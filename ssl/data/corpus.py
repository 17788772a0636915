"""A corpus: documents of clean text in one memory-mapped file, split into training and validation, with a fingerprint.

    CACHE/corpora/<fingerprint>/   documents.bin, starts.npy, held_out.npy
    CACHE/sources/<key>.json       what was found where: the knobs and files (path, size, time) -> facts, fingerprint

Documents are written as they are read, so that memory grows only with the number of documents (about 150 bytes each).
An unchanged source is not read again; a changed one is, and the fingerprint shows whether its text differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from array import array
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rlgym.common.atomic_io import read_json, to_json, write_atomic
from rlgym.errors import RequestError
from rlgym.ssl.config import DataConfig, TextData
from rlgym.ssl.data.cache import cache_folder, move_in, save_array, working
from rlgym.ssl.data.cleaning import Filter, normalized
from rlgym.ssl.data.documents import Bad, Item, Source, cannot_be_used, counted, stamps
from rlgym.ssl.data.progress import Report
from rlgym.ssl.data.sources import open_source
from rlgym.ssl.data.split import cut_at, held_out

__all__ = ["Corpus", "build_corpus", "cache_folder"]

LAYOUT = 4
"""Version of the cache's format and of the sources; a new number rebuilds everything."""

SETTLED = 2.0
"""Seconds: a file modified more recently is re-read, as it may change again within the clock's resolution."""

_NOT_CONTENT = ("packing", "licence", "cache", "path")


@dataclass(frozen=True)
class Corpus:
    """Concatenated documents of UTF-8 text."""

    folder: Path
    """Its folder in the cache."""
    text: NDArray[np.uint8]
    """Memory-mapped [bytes]."""
    starts: NDArray[np.int64]
    """[documents + 1]: the start of each document, and the end of the last one."""
    held_out: NDArray[np.bool_]
    """[documents]: whether each is held out for validation."""
    fingerprint: str
    """SHA-256 of the documents in order and the held-out flags; independent of file names and times."""
    facts: dict[str, Any]
    """Facts as JSON: documents, bytes, dropped documents, source, licence, ..."""

    def document(self, index: int) -> str:
        return self.text[self.starts[index] : self.starts[index + 1]].tobytes().decode()


def build_corpus(config: DataConfig, report: Report) -> Corpus:
    """Open the corpus of a config: from the cache if nothing has changed, else read and clean it."""
    source = open_source(config)
    cache = cache_folder(config)
    began = time.time()
    before = stamps(source.files)
    known = cache / "sources" / f"{_key(config, source, before)}.json"
    corpus = _remembered(cache, known) if source.recognisable else None
    if corpus is None:
        corpus = _read(config, source, cache, report)
        settled = all(changed / 1e9 < began - SETTLED for _, _, changed in before)
        if source.recognisable and settled and _unchanged(source, before):
            _remember(known, corpus)
    return _described(corpus, config, source)


def check_separator(corpus: Corpus, config: DataConfig) -> None:
    """RequestError if `data.separator` never occurs in the text."""
    if isinstance(config, TextData) and config.separator and not corpus.facts["separators"]:
        raise RequestError(
            f"data.separator={config.separator}: does not occur in {corpus.facts['source']}; without it a file is one "
            "document"
        )


def _key(config: DataConfig, source: Source, before: list[list[Any]]) -> str:
    knobs = {name: value for name, value in asdict(config).items() if name not in _NOT_CONTENT}
    # A local folder or file is identified by absolute paths; a name on the hub has no files.
    content = [LAYOUT, type(config).__name__, knobs, source.name if not before else "", source.revision, before]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _unchanged(source: Source, before: list[list[Any]]) -> bool:
    try:
        return stamps(source.files) == before
    except OSError:
        return False


# ---- the cache


def _remembered(cache: Path, known: Path) -> Corpus | None:
    try:
        facts = read_json(known)
        return _open(cache, facts)
    except (OSError, KeyError, TypeError, ValueError):  # missing or damaged: rebuild it
        return None


def _remember(known: Path, corpus: Corpus) -> None:
    with suppress(OSError):  # the corpus is complete; the next run reads its source again
        known.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(known, to_json(corpus.facts), f".{known.name}-{os.getpid()}.tmp")


def _folder(cache: Path, fingerprint: str) -> Path:
    return cache / "corpora" / fingerprint[:32]


def _open(cache: Path, facts: dict[str, Any]) -> Corpus:
    """Open a cached corpus; ValueError or OSError if it is incomplete."""
    fingerprint = str(facts["fingerprint"])
    folder = _folder(cache, fingerprint)
    text: NDArray[np.uint8] = np.memmap(folder / "documents.bin", np.uint8, "r")
    starts: NDArray[np.int64] = np.load(folder / "starts.npy")
    held: NDArray[np.bool_] = np.load(folder / "held_out.npy")
    if starts[-1] != len(text) or len(starts) != len(held) + 1:
        raise ValueError("not whole")
    return Corpus(folder, text, starts, held, fingerprint, facts)


def _described(corpus: Corpus, config: DataConfig, source: Source) -> Corpus:
    """The corpus with current facts that do not depend on the text."""
    facts = {**corpus.facts, "source": source.name, "revision": source.revision, "licence": config.licence}
    return Corpus(corpus.folder, corpus.text, corpus.starts, corpus.held_out, corpus.fingerprint, facts)


# ---- reading


def _read(config: DataConfig, source: Source, cache: Path, report: Report) -> Corpus:
    with working(cache / "corpora") as work:
        with (work / "documents.bin").open("wb") as file:
            writer = _Writer(file, Filter(config.min_length, config.deduplicate))
            stops = config.bad == "stop" and not source.tolerant
            items = source.items if config.normalize == "none" else normalized(source.items, config.normalize)
            _write(items, writer, stops, source, report)
        if writer.bad and stops:
            raise cannot_be_used(writer.bad, source.unit, writer.first_bad)
        if not writer.sizes:
            raise RequestError(f"data: the corpus is empty: {_dropped(writer, source)}")
        text: NDArray[np.uint8] = np.memmap(work / "documents.bin", np.uint8, "r")
        starts, held = _split(text, writer, config.validation_fraction)
        del text  # a mapped file cannot be renamed on every system
        digest = hashlib.sha256(bytes(writer.digests) + starts.astype("<i8").tobytes() + held.tobytes())
        fingerprint = digest.hexdigest()
        save_array(work / "starts.npy", starts)
        save_array(work / "held_out.npy", held)
        sizes = np.diff(starts)
        facts = {
            "fingerprint": fingerprint,
            "documents": len(held),
            "bytes": int(starts[-1]),
            "held_out_documents": int(held.sum()),
            "held_out_bytes": int(sizes[held].sum()),
            "duplicates": writer.filter.duplicates,
            "too_short": writer.filter.too_short,
            "separators": writer.read() - len(source.files),
            "bad": writer.bad,
            "bad_unit": source.unit,
            "first_bad": writer.first_bad,
            "cut": len(writer.sizes) == 1,
            "normalize": config.normalize,
            "min_length": config.min_length,
            "deduplicate": config.deduplicate,
        }
        folder = _folder(cache, fingerprint)
        if folder.is_dir():
            with suppress(OSError, KeyError, TypeError, ValueError):
                return _open(cache, facts)  # the same text exists already
            shutil.rmtree(folder, ignore_errors=True)  # damaged
        move_in(work, folder)
    return _open(cache, facts)


def _write(items: Iterable[Item], writer: _Writer, stops: bool, source: Source, report: Report) -> None:
    shown = 0
    for item in items:
        if isinstance(item, Bad):
            writer.void(item)
        elif not (stops and writer.bad):  # the rest is only counted
            writer.add(*item)
        if source.meter.done != shown:
            shown = source.meter.done
            report("reading text", shown, source.size)


class _Writer:
    """Writes documents to one file, hashing them; a dropped document is truncated away."""

    def __init__(self, file: IO[bytes], filter: Filter) -> None:
        self.file, self.filter = file, filter
        self.sizes = array("q")
        self.digests = bytearray()
        self.bad = 0
        self.first_bad = ""
        self._end = 0  # of the kept documents
        self._begin()

    def _begin(self) -> None:
        self._hash = hashlib.sha256()
        self._bytes = self._characters = 0

    def add(self, text: str, ends: bool) -> None:
        data = text.encode()
        self._hash.update(data)
        self._characters += len(text)
        if not ends:
            self.file.write(data)
            self._bytes += len(data)
            return
        digest = self._hash.digest()
        if self.filter.keeps(self._characters, digest):
            self.file.write(data)
            self._bytes += len(data)
            self._end += self._bytes
            self.sizes.append(self._bytes)
            self.digests += digest
        else:
            self._take_out()
        self._begin()

    def void(self, bad: Bad) -> None:
        self.bad += 1
        self.first_bad = self.first_bad or f"{bad.where}: {bad.why}"
        self._take_out()
        self._begin()

    def read(self) -> int:
        """Number of complete documents, including dropped ones."""
        return len(self.sizes) + self.filter.too_short + self.filter.duplicates + self.bad

    def _take_out(self) -> None:
        if self._bytes:
            self.file.seek(self._end)
            self.file.truncate()


def _split(text: NDArray[np.uint8], writer: _Writer, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(starts [documents + 1], held_out [documents]); a single document is split in two."""
    sizes = np.array(writer.sizes, np.int64)
    if len(sizes) > 1:
        digests = np.frombuffer(bytes(writer.digests), np.uint8).reshape(-1, 32)
        return np.concatenate([[0], np.cumsum(sizes)]), held_out(digests, sizes, fraction)
    at = cut_at(text, fraction)
    if not at:
        raise RequestError("data: the corpus is a single character, so that none could be held out; give it more text")
    return np.array([0, at, len(text)], np.int64), np.array([False, True])


def _dropped(writer: _Writer, source: Source) -> str:
    """The reason why no document is left."""
    parts = []
    short, least = writer.filter.too_short, writer.filter.min_length
    if short:
        parts.append(f"{counted(short, 'document')} shorter than {counted(least, 'character')}")
    if writer.bad:
        parts.append(f"{counted(writer.bad, source.unit)} that cannot be used (the first: {writer.first_bad})")
    return f"dropped {', '.join(parts)}" if parts else f"no document in {source.name}"
