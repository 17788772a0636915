"""From knobs to tokens: what is reused, what is told, and that other text is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlgym.config.schema import PretrainConfig
from rlgym.errors import RequestError
from rlgym.ssl.config import BpeTokenizer, ByteTokenizer, TextData
from rlgym.ssl.data.blocks import Blocks
from rlgym.ssl.data.prepare import Prepared, prepare
from rlgym.ssl.data.progress import silent
from tests.ssl.corpora import write
from tests.ssl.small_corpus import CODE


def knobs(tmp_path: Path, tokenizer: Any = None, **data: Any) -> PretrainConfig:
    config = PretrainConfig()
    config.data = TextData(path=[str(tmp_path / "text")], cache=str(tmp_path / "cache"), **data)
    config.tokenizer = tokenizer or BpeTokenizer(vocab_size=400)
    return config


@pytest.fixture
def text(tmp_path: Path) -> Path:
    for i in range(30):
        write(tmp_path / "text" / f"{i:02d}.txt", f"document {i}\n{CODE}")
    return tmp_path / "text"


def whole(prepared: Prepared) -> list[str]:
    """Each split's text, from its tokens."""
    return [prepared.tokenizer.decode(part.ids.tolist()) for part in (prepared.train, prepared.validation)]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "masked"])
def test_text_to_tokens_and_what_is_told(tmp_path: Path, text: Path, causal: bool) -> None:
    prepared = prepare(knobs(tmp_path), causal, silent)
    corpus, held = prepared.corpus, prepared.corpus.held_out
    for found, wanted in zip(whole(prepared), (~held, held), strict=True):
        assert found == "".join(corpus.document(i) for i in range(len(held)) if wanted[i])
    facts = prepared.facts
    assert facts["fingerprint"] == corpus.fingerprint and facts["documents"] == 30
    assert facts["tokens"] == {"train": len(prepared.train.ids), "validation": len(prepared.validation.ids)}
    assert sum(facts["text_bytes"].values()) == facts["bytes"] == len(corpus.text)
    assert facts["tokenizer"]["fingerprint"] == prepared.tokenizer.fingerprint
    assert 0 < facts["overlap"]["share"] < 1, "the documents differ in their first words alone"
    assert f"{len(prepared.train.ids):,}" in prepared.card and corpus.fingerprint in prepared.card


def test_a_second_time_does_nothing_and_finds_the_same(tmp_path: Path, text: Path) -> None:
    whats: list[str] = []
    first = prepare(knobs(tmp_path), True, lambda what, done, total: whats.append(what))
    assert "tokenizing" in whats and "training the tokenizer" in whats
    whats.clear()
    second = prepare(knobs(tmp_path), True, lambda what, done, total: whats.append(what))
    assert not whats and second.facts == first.facts and second.card == first.card
    assert whole(second) == whole(first)


def test_other_text_is_other_data(tmp_path: Path, text: Path) -> None:
    first = prepare(knobs(tmp_path), True, silent)
    write(text / "00.txt", "document 0, changed\n" + CODE)
    second = prepare(knobs(tmp_path), True, silent)
    assert second.facts["fingerprint"] != first.facts["fingerprint"]
    assert any("document 0, changed" in part for part in whole(second))
    write(text / "00.txt", f"document 0\n{CODE}")
    assert prepare(knobs(tmp_path), True, silent).facts["fingerprint"] == first.facts["fingerprint"]


def test_a_corpus_of_less_than_a_block(tmp_path: Path) -> None:
    write(tmp_path / "text" / "a.txt", "ten bytes.")
    prepared = prepare(knobs(tmp_path, ByteTokenizer()), True, silent)
    assert whole(prepared) == ["ten bytes", "."]
    with pytest.raises(RequestError, match=r"model.block_size=256: the train part of the corpus has 11 tokens"):
        Blocks(prepared.train, 256, 1)
