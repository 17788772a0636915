"""A corpus made by hand, without a source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlgym.ssl.data.corpus import Corpus

CODE = '''def fact(n):
    """Product of 1..n; it's n! for short."""
    return 1 if n < 2 else n * fact(n - 1)


class Größe:
\tvalue = {"a": [1, 2.5e-3], "ß": "naïve – 東京 🙂"}

'''


def corpus_of(cache: Path, documents: Sequence[str], held_out: Sequence[int] = (-1,)) -> Corpus:
    """A corpus of these documents under the folder `cache`, those numbered in `held_out` for validation."""
    content = [document.encode() for document in documents]
    held = np.zeros(len(content), dtype=bool)
    held[list(held_out)] = True
    starts = np.concatenate([[0], np.cumsum([len(part) for part in content])]).astype(np.int64)
    fingerprint = hashlib.sha256(repr((content, held.tolist())).encode()).hexdigest()
    folder = cache / "corpora" / fingerprint[:32]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.bin").write_bytes(b"".join(content))
    text = np.memmap(folder / "documents.bin", np.uint8, "r")
    return Corpus(folder, text, starts, held, fingerprint, {"source": "a test", "licence": ""})
