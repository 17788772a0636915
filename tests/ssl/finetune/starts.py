"""Small pretrained runs to fine-tune, and small tables: whole runs of a second or two."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path

import rlgym
from tests.ssl import tiny

KINDS = {
    "bert": ["objective=masked", "model=bert_nano"],
    "modernbert": ["objective=masked", "model=modernbert_nano", "model.num_hidden_layers=2", "model.local_attention=8"],
    "qwen3": ["model=qwen_nano", "tokenizer=bpe", "tokenizer.vocab_size=300"],
    "gpt2": ["model=gpt_nano", "model.num_hidden_layers=2"],
}
QUICK = ["threads=1", "display=quiet", "log.histograms=false", "method.baselines=false"]
WORDS = {"warm": ("sun", "fire", "summer", "oven"), "cold": ("ice", "snow", "winter", "frost")}


@dataclass
class Starts:
    """A pretrained run of each kind, made when it is first asked for."""

    text: Path
    folder: Path

    def __getitem__(self, kind: str) -> str:
        run = self.folder / kind
        if not run.exists():
            words = tiny.words(self.text, "tokens=2048", "sample.count=0", "data.validation_fraction=0.1")
            rlgym.pretrain(*words, *KINDS[kind], f"run.dir='{run}'")
        return str(run)


def rows(count: int, seed: int = 0) -> list[tuple[str, str, float]]:
    """(text, label, number of words): the label follows from one word, texts hardly repeat."""
    draw, found = random.Random(seed), []
    for number in range(count):
        label = ("warm", "cold")[number % 2]
        words = [draw.choice(tiny.NOUNS) for _ in range(draw.randint(0, 2))] + [draw.choice(WORDS[label])]
        draw.shuffle(words)
        found.append((" ".join(words) + f" {draw.randint(10, 999)}", label, float(len(words))))
    return found


def write_table(
    path: Path, count: int = 80, seed: int = 0, header: tuple[str, ...] = ("text", "label", "size")
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows(count, seed))
    return path


def words(start: str, table: Path, *more: str) -> list[str]:
    """The words of a small classification of `table`."""
    return tiny.latest(f"init_from='{start}'", "data=csv", f"data.path='{table}'", *QUICK, "batch_size=8", *more)
