"""Detects overlap of evaluation texts with the training text of the base run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.ssl.data.corpus import Corpus, build_corpus
from rlgym.ssl.data.overlap import between
from rlgym.ssl.data.progress import silent

NOTED = 0.001
"""Share of overlap from which on a warning is given."""


@dataclass(frozen=True)
class Overlap:
    share: float | None
    """Shared 13-grams of the evaluated texts; None if unknown."""
    line: str


def warning(parent: dict[str, Any] | None, texts: Sequence[str]) -> Overlap | None:
    """The warning about texts evaluated by a run with this `parent` (from its manifest), or None."""
    source = pretraining(parent)
    if source is None or not texts:
        return None
    folder = Path(str(source.get("dir", "")))
    try:
        config = load_config(folder)
        with TemporaryDirectory() as work:
            corpus = build_corpus(config.data, silent)
            if corpus.fingerprint != (source.get("data") or {}).get("fingerprint"):
                raise RequestError("its corpus has changed since")
            evaluated = of_texts(texts, Path(work))
            found = between(corpus, ~corpus.held_out, evaluated, evaluated.held_out)
    except (RequestError, OSError) as error:
        return Overlap(None, f"overlap with the training text of {source.get('run')}: not known ({error})")
    if found["share"] < NOTED:
        return None
    line = (
        f"warning: {found['share']:.1%} of the 13-grams evaluated here ({found['documents']:,} of {len(texts):,} "
        f"texts) stand in what {source.get('run')} was trained on: new text may be harder"
    )
    return Overlap(found["share"], line)


def pretraining(parent: dict[str, Any] | None) -> dict[str, Any] | None:
    """The first run of the lineage, which learned from a corpus."""
    while parent:
        if parent.get("root") == "pretrain":
            return parent
        parent = parent.get("parent")
    return None


def of_texts(texts: Sequence[str], folder: Path) -> Corpus:
    """An in-memory corpus, all of it held out."""
    content = [text.encode() for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in content])]).astype(np.int64)
    text = np.frombuffer(b"".join(content), np.uint8)
    return Corpus(folder, text, starts, np.ones(len(content), bool), "", {})
