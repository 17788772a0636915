"""Pairs with a rule that a tiny model can learn, and a tiny pretrained run to begin with."""

from __future__ import annotations

import json
import random
from pathlib import Path

from rlgym.cli.main import main
from tests.ssl import tiny

SHAPE = ["model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.block_size=64"]
QUICK = ["threads=1", "display=quiet", "log.histograms=false"]


def pretrained(folder: Path, text: Path, *more: str) -> Path:
    """A run of a few updates on `text`, bytes as tokens."""
    words = tiny.words(text, "objective=next_token", "model=qwen_nano", *SHAPE, "tokens=4_096", *more)
    assert main(["pretrain", *words, f"run.dir={folder}"]) == 0
    return folder


def write_pairs(path: Path, count: int = 60, seed: int = 0) -> Path:
    """Answers in the present tense are chosen over the same ones in capitals."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        first, second = draw.sample(tiny.NOUNS[:10], 2)
        answer = f" {draw.choice(tiny.VERBS)} and the {second} {draw.choice(tiny.VERBS)}."
        rows.append({"prompt": f"the {first}", "chosen": answer, "rejected": answer.upper(), "gap": draw.random()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(parent: Path, pairs: Path, method: str, *more: str) -> list[str]:
    """The words of a tiny run of `method`."""
    data = ["data=jsonl", f"data.path=['{pairs}']"]
    return tiny.latest(f"method={method}", f"init_from={parent}", *data, *QUICK, "batch_size=8", "tokens=8_000", *more)
