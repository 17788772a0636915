"""Small corpora for the tests."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rlgym.ssl.config import DataConfig
from rlgym.ssl.data.corpus import Corpus, build_corpus
from rlgym.ssl.data.progress import silent


def build(config: DataConfig) -> Corpus:
    return build_corpus(config, silent)


def texts(corpus: Corpus) -> list[str]:
    return [corpus.document(index) for index in range(len(corpus.held_out))]


def write(path: Path, content: str | bytes, settled: bool = True) -> Path:
    """A file; `settled`: as if written a minute ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if settled:
        os.utime(path, (time.time() - 60,) * 2)
    return path


def staging(folder: Path) -> list[Path]:
    """What processes at work, or dead ones, have in a folder of the cache."""
    return list(folder.rglob(".*"))
