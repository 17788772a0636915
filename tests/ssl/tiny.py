"""A corpus of a few KB and models of some thousand parameters: whole runs of a second."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ssl.corpora import write

NOUNS = ("tree", "river", "stone", "light", "cloud", "moon", "sun", "leaf", "house", "bridge", "Größe", "東京")
VERBS = ("runs", "sings", "walks", "opens", "closes", "falls", "rises", "waits", "burns", "sleeps")
SHAPE = ["model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.block_size=32"]
QUICK = ["threads=1", "display=quiet", "sample.count=1", "sample.tokens=8", "log.histograms=false"]


def sentences(count: int, seed: int) -> str:
    """Lines of English that follow a rule: a model can learn them, and no two are likely to be the same."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        first, second = draw.sample(NOUNS, 2)
        lines.append(f"the {first} {draw.choice(VERBS)} and the {second} {draw.choice(VERBS)}.")
    return "\n".join(lines) + "\n"


def write_text(folder: Path, documents: int = 24, seed: int = 0) -> Path:
    """A folder of text files of two to nine lines each, about 5 KB in all."""
    for number in range(documents):
        write(folder / f"{number:03d}.txt", sentences(2 + (number * 5 + seed) % 8, 1_000 * seed + number))
    return folder


def words(text: Path, *more: str) -> list[str]:
    """The words of a tiny run on `text`; of a key given twice the last value counts."""
    data = ["data=text", f"data.path=['{text}']", "data.validation_fraction=0.1", "tokenizer=byte", "batch_size=4"]
    return latest(*data, *SHAPE, *QUICK, *more)


def latest(*words: str) -> list[str]:
    """Of words that give a key twice the last, as a command line takes each once, and none that would be idle."""
    chosen = {word.lstrip("+").partition("=")[0]: word for word in words}
    if "objective=masked" in words or "sample.count=0" in words:
        chosen.pop("sample.tokens", None)
    return [*chosen.values()]


@contextmanager
def cache(folder: Path) -> Iterator[Path]:
    """`folder` as the place of prepared data."""
    before = os.environ.get("RLGYM_CACHE")
    os.environ["RLGYM_CACHE"] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["RLGYM_CACHE"]
        else:
            os.environ["RLGYM_CACHE"] = before
