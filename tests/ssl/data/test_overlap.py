"""Runs of 13 words in training and validation, against sets of tuples."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from rlgym.ssl.data import overlap as module
from rlgym.ssl.data.card import card
from rlgym.ssl.data.corpus import Corpus
from rlgym.ssl.data.overlap import overlap


def corpus_of(documents: list[str], held_out: list[bool]) -> Corpus:
    data = [document.encode() for document in documents]
    starts = np.cumsum([0, *map(len, data)])
    return Corpus(Path(), np.frombuffer(b"".join(data), np.uint8), starts, np.array(held_out), "", {})


def runs(document: str) -> list[tuple[str, ...]]:
    lower = "".join(letter.lower() if letter.isascii() else letter for letter in document)
    for space in "\t\n\v\f\r":
        lower = lower.replace(space, " ")
    words = [word for word in lower.split(" ") if word]
    return [tuple(words[k : k + 13]) for k in range(len(words) - 12)]


def brute_force(documents: list[str], held_out: list[bool]) -> dict[str, float]:
    split = list(zip(documents, held_out, strict=True))
    train = {run for document, held in split if not held for run in runs(document)}
    found = [[run in train for run in runs(document)] for document, held in split if held]
    ngrams, shared = sum(map(len, found)), sum(map(sum, found))
    return {
        "ngrams": ngrams,
        "shared": shared,
        "share": shared / ngrams if ngrams else 0.0,
        "documents": sum(map(any, found)),
        "sampled": 1.0,
    }


def random_corpus(generator: random.Random) -> tuple[list[str], list[bool]]:
    """Documents that share sentences, in other cases and spaces, some without a space at their ends."""
    sentences = [generator.choices(["a", "B", "cc", "\u00c9t\u00e9", "d.", "EE"], k=16) for _ in range(6)]
    documents = []
    for _ in range(generator.randint(2, 30)):
        words = [word for sentence in generator.choices(sentences, k=generator.randint(0, 3)) for word in sentence]
        words = words[generator.randint(0, 5) :] or ["alone"]
        text = "".join(word + generator.choice([" ", "\n", "  ", "\t"]) for word in words)
        documents.append(generator.choice([text, text.strip(), text.upper().replace("\u00c9T\u00c9", "\u00c9t\u00e9")]))
    held = [generator.random() < 0.4 for _ in documents]
    held[:2] = [True, False]
    return documents, held


@pytest.mark.parametrize("chunk", [16, 64, 1 << 18])
@pytest.mark.parametrize("gap", [0, 50])
def test_equals_brute_force(chunk: int, gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)  # parts that end inside documents and runs
    monkeypatch.setattr(module, "GAP", gap)
    generator = random.Random(0)
    some = 0
    for _ in range(60):
        documents, held = random_corpus(generator)
        expected = brute_force(documents, held)
        assert overlap(corpus_of(documents, held)) == pytest.approx(expected)
        some += 0 < expected["share"] < 1
    assert some > 12


def test_runs_do_not_cross_documents() -> None:
    words = [f"w{number}" for number in range(13)]
    halves = [" ".join(words[:6]) + " ", " ".join(words[6:])]
    assert overlap(corpus_of([*halves, " ".join(words)], [False, False, True]))["shared"] == 0
    assert overlap(corpus_of(["".join(halves), " ".join(words)], [False, True]))["shared"] == 1


def test_more_runs_than_the_limit_are_sampled_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(1)
    documents = [" ".join(f"{generator.random():.6f}" for _ in range(500)) for _ in range(40)]
    documents += [document[: len(document) // 2] for document in documents[:20]]  # the first halves of 20 of them
    held = [True] * 40 + [False] * 20
    exact = overlap(corpus_of(documents, held))
    monkeypatch.setattr(module, "LIMIT", 4_000)
    sampled = overlap(corpus_of(documents, held))
    assert exact["sampled"] == 1.0 and sampled["sampled"] == 0.125
    assert 2_000 < sampled["ngrams"] <= 4_000
    deviation = (exact["share"] * (1 - exact["share"]) / sampled["ngrams"]) ** 0.5
    assert abs(sampled["share"] - exact["share"]) < 5 * deviation


def test_the_card_says_what_the_corpus_is() -> None:
    documents = ["first ``` with a fence", "second " * 200, "third", "held \u20ac"]
    corpus = corpus_of(documents, [False, False, False, True])
    facts = {
        "source": "some/where", "revision": "abc", "licence": "", "bytes": len(corpus.text), "held_out_bytes": 8,
        "normalize": "NFC", "deduplicate": True, "duplicates": 12_345, "min_length": 3, "too_short": 2, "bad": 1,
        "bad_unit": "line", "first_bad": "x.jsonl:7: not an object", "cut": False,
    }  # fmt: skip
    corpus = Corpus(corpus.folder, corpus.text, corpus.starts, corpus.held_out, "f00d", facts)
    shown = card(corpus, {"train": 1_000, "validation": 50}, {**overlap(corpus), "ngrams": 80, "sampled": 0.25})
    for part in (
        "some/where, revision abc",
        "not given",
        "`f00d`",
        "| train | 3 | 1,427 | 1,000 |",
        "| validation | 1 | 8 | 50 |",
        "NFC",
        "12,345",
        "x.jsonl:7: not an object",
        "80 (a sample of 25.00%)",
        "````text\nfirst ``` with a fence\n````",
        "\nthird\n",
        " ...\n",
    ):
        assert part in shown, part
    assert "held \u20ac" not in shown  # what is held out is not shown
