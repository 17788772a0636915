"""Evaluating finished models: which token is predicted from what, and bits per byte of models made by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.ssl.config import ByteTokenizer, JsonlData, MaskedConfig, TextData
from rlgym.ssl.data.build_tokenizer import build_tokenizer
from rlgym.ssl.data.corpus import Corpus
from rlgym.ssl.data.progress import silent
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.inference.evaluate import data_config, evaluate_causal, evaluate_masked, refuse_idle, windows
from rlgym.ssl.inference.language_model import LanguageModel
from rlgym.ssl.models.attention import Cache
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.objectives.base import IGNORED
from tests.ssl.small_corpus import CODE, corpus_of

# ---- windows


def rolling(tokens: list[int], prefix: int, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """lm-eval's windows for `loglikelihood_rolling` (context_len=1), as its documentation tells them: (what the model
    reads, what its last outputs predict)."""
    if not tokens:
        return
    first = min(length, len(tokens))
    yield [prefix, *tokens[: first - 1]], tokens[:first]
    predicted = first
    while predicted < len(tokens):
        count = min(len(tokens) - predicted, length)
        end = predicted + count
        yield tokens[end - length - 1 : end - 1], tokens[end - count : end]
        predicted += count


def predictions(pairs: Iterator[tuple[list[int], list[int]]]) -> list[tuple[list[int], int]]:
    """(context, token), one for each token that is scored, in order."""
    found = []
    for inputs, labels in pairs:
        offset = len(inputs) - len(labels)
        found += [(inputs[: offset + i + 1], label) for i, label in enumerate(labels) if label != IGNORED]
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16])
def test_windows_are_those_of_rolling_log_likelihood(length: int) -> None:
    for count in range(4 * length + 2):
        ids = list(range(100, 100 + count))
        ours = predictions(windows(ids, 0, length))
        assert ours == predictions(rolling(ids, 0, length))
        assert [token for _, token in ours] == ids, "each token once, in order"
        assert all(context[-1] == (token - 1 if token > 100 else 0) for context, token in ours)
        assert all(len(inputs) == len(labels) <= length for inputs, labels in windows(ids, 0, length))


# ---- a model made by hand


class Table(Backbone):
    """Predicts each token from the one before it, by a table: its probability is the same whatever the window."""

    causal = True

    def __init__(self, table: Tensor, block_size: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table)
        self.tokens = self.vocab_size = self.width = len(table)
        self.block_size = block_size
        self.calls: list[tuple[int, ...]] = []

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        assert documents is None and tokens.shape[1] <= self.block_size
        self.calls.append(tuple(tokens.shape))
        return self.table[tokens]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def embedding(self) -> Tensor:
        return self.table


def bytes_tokenizer(causal: bool = True) -> Tokenizer:
    corpus: Any = None
    return build_tokenizer(ByteTokenizer(), corpus, causal, silent)


def by_hand(table: Tensor, tokenizer: Tokenizer, documents: list[str]) -> tuple[float, int, int]:
    """(nats, hits, tokens), token by token."""
    nats, hits, count = 0.0, 0, 0
    rows = table.double().log_softmax(-1)
    for document in documents:
        before = tokenizer.eos_id
        for token in tokenizer.encode(document):
            nats -= float(rows[before, token])
            hits += int(table[before].argmax()) == token
            before, count = token, count + 1
    return nats, hits, count


DOCUMENTS = [CODE, "a", "", "the tree sings", "東京 🙂", "x" * 50]


@pytest.mark.parametrize(("block", "batch"), [(1, 3), (4, 1), (16, 5), (16, 64), (1_000, 2)])
def test_bits_per_byte_of_a_model_made_by_hand(block: int, batch: int) -> None:
    tokenizer = bytes_tokenizer()
    table = torch.randn(tokenizer.vocab_size, tokenizer.vocab_size, generator=torch.Generator().manual_seed(1)) * 3
    model = Table(table, block)
    found = evaluate_causal(LanguageModel(model, tokenizer), iter(DOCUMENTS), None, batch)
    nats, hits, count = by_hand(table, tokenizer, DOCUMENTS)
    size = sum(len(document.encode()) for document in DOCUMENTS)
    assert (found["tokens"], found["bytes"], found["documents"]) == (count, size, len(DOCUMENTS))
    assert found["loss"] == pytest.approx(nats / count, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert found["accuracy"] == pytest.approx(hits / count)
    assert all(rows <= batch for rows, _ in model.calls)


def test_a_model_that_knows_nothing_has_the_entropy_of_its_vocabulary() -> None:
    tokenizer = bytes_tokenizer()
    model = LanguageModel(Table(torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size), 8), tokenizer)
    found = evaluate_causal(model, iter(DOCUMENTS), None, 4)
    assert found["bits_per_byte"] == pytest.approx(math.log2(258)), "a token a byte"


def test_bits_per_byte_is_of_bytes_whatever_a_token_is(tmp_path: Path) -> None:
    """A tokenizer whose tokens are long has a higher loss for the same bits per byte."""
    from rlgym.ssl.config import BpeTokenizer

    corpus = corpus_of(tmp_path, [CODE * 4, CODE], held_out=[1])
    tokenizer = build_tokenizer(BpeTokenizer(vocab_size=400), corpus, True, silent)
    model = LanguageModel(Table(torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size), 8), tokenizer)
    found = evaluate_causal(model, iter([CODE]), None, 4)
    tokens, size = len(tokenizer.encode(CODE)), len(CODE.encode())
    assert tokens < 0.7 * size
    assert found["bits_per_byte"] == pytest.approx(math.log2(tokenizer.vocab_size) * tokens / size)
    assert found["loss"] == pytest.approx(math.log(tokenizer.vocab_size))


def test_a_limit_evaluate_the_first_tokens_and_their_bytes() -> None:
    tokenizer = bytes_tokenizer()
    table = torch.randn(tokenizer.vocab_size, tokenizer.vocab_size, generator=torch.Generator().manual_seed(1))
    found = evaluate_causal(LanguageModel(Table(table, 4), tokenizer), iter(["the tree", "sings", "and falls"]), 11, 2)
    nats, _, count = by_hand(table, tokenizer, ["the tree", "sin"])
    assert (found["tokens"], found["bytes"], found["documents"]) == (count, 11, 2) == (11, 11, 2)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 11, rel=1e-6)


def test_no_text_at_all_is_refused() -> None:
    tokenizer = bytes_tokenizer()
    model = LanguageModel(Table(torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size), 8), tokenizer)
    with pytest.raises(RequestError, match="there is no text to evaluate"):
        evaluate_causal(model, iter(["", ""]), None, 4)


# ---- masked


class Unigram(Backbone):
    """Sees nothing, and predicts every hidden token by one distribution."""

    causal = False

    def __init__(self, logits: Tensor, block_size: int) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(logits)
        self.tokens = self.vocab_size = self.width = len(logits)
        self.block_size = block_size
        self.seen = 0

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        self.seen += tokens.numel()
        return self.scores.expand(*tokens.shape, self.vocab_size)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def embedding(self) -> Tensor:
        return self.scores[None]


def masked_run() -> Any:
    """What `evaluate_masked` reads of a run's config."""
    from rlgym.config.schema import PretrainConfig

    config = PretrainConfig()
    config.objective, config.data = MaskedConfig(rate=0.999), TextData()
    return config


def evaluated(model: LanguageModel, corpus: Corpus, held_out: bool, limit: int | None = None) -> dict[str, Any]:
    return evaluate_masked(model, masked_run(), corpus, held_out, limit, 3, silent)


def test_a_masked_model_is_evaluated_on_every_block_of_the_text(tmp_path: Path) -> None:
    """At a rate of nearly 1 all tokens but the special ones are hidden, and what is found can be told in advance."""
    tokenizer = bytes_tokenizer(causal=False)
    scores = torch.randn(tokenizer.vocab_size, generator=torch.Generator().manual_seed(1))
    model = Unigram(scores, 16)
    language = LanguageModel(model, tokenizer)
    texts = [CODE, "short", CODE[::-1], "the held-out one"]
    corpus = corpus_of(tmp_path, texts)
    found = evaluated(language, corpus, held_out=False)
    ends = (tokenizer.cls_id, tokenizer.sep_id)
    stream = [token for text in texts for token in (ends[0], *tokenizer.encode(text), ends[1]) if token is not None]
    blocks = len(stream) // 16
    assert model.seen == 16 * blocks, "training and held-out documents in one stream"
    text = [token for token in stream[: 16 * blocks] if token not in ends]
    assert len(text) - 3 <= found["tokens"] <= len(text)
    shares = -scores.double().log_softmax(-1)
    assert found["loss"] == pytest.approx(float(shares[text].mean()), rel=0.01)
    assert found["accuracy"] == pytest.approx(text.count(int(scores.argmax())) / len(text), abs=0.01)
    commonest = max(text.count(token) for token in set(text))
    assert found["unigram_accuracy"] <= commonest / len(text) + 0.01
    # a token a byte, and none of them special
    assert found["bytes"] == found["tokens"] and found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2))

    assert evaluated(language, corpus, held_out=False) == found, "the same masks each time"
    for held_out, limit, seen in ((True, None, 16), (False, 40, 32)):
        model.seen = 0
        evaluated(language, corpus, held_out, limit)
        assert model.seen == seen


def test_small_text_is_evaluated_whole_and_less_than_a_block_refused(tmp_path: Path) -> None:
    """Another corpus holds nothing out: its last part being less than a block matters to nobody."""
    tokenizer = bytes_tokenizer(causal=False)
    model = Unigram(torch.zeros(tokenizer.vocab_size), 16)
    language = LanguageModel(model, tokenizer)
    found = evaluated(language, corpus_of(tmp_path, ["ten bytes.", "six by"]), held_out=False)
    assert model.seen == 16 and found["loss"] == pytest.approx(math.log(tokenizer.vocab_size))
    with pytest.raises(RequestError, match="data: 15 tokens are fewer than one block of 16"):
        evaluated(language, corpus_of(tmp_path, ["ten bytes.", "x"]), held_out=False)
    with pytest.raises(RequestError, match="data: 9 tokens are fewer than one block of 16"):
        evaluated(language, corpus_of(tmp_path, ["ten bytes.", "six by"]), held_out=False, limit=9)


# ---- which text


def test_the_words_name_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    own = TextData(path=["own.txt"], separator="|", normalize="NFC", bad="skip", min_length=9)
    assert data_config(own, "", {}) is own
    assert data_config(own, "a.txt", {}) == TextData(path=["a.txt"], separator="|", normalize="NFC")
    assert data_config(own, "a.txt", {"separator": "", "bad": "skip"}).separator == ""
    assert data_config(own, "text", {"path": "[a.txt,b.txt]"}).path == ["a.txt", "b.txt"]
    columns = data_config(own, "csv", {"path": "t.csv", "column": "body", "quoting": "false"})
    assert (columns.name, columns.column, columns.quoting) == ("csv", "body", False)
    (tmp_path / "t.JSONL.gz").write_text("")
    posts = JsonlData(path=["own.jsonl"], column="body")
    assert data_config(posts, "t.JSONL.gz", {}) == JsonlData(path=["t.JSONL.gz"], column="body")
    assert data_config(posts, "a.txt", {}) == TextData(path=["a.txt"]), "any other file is text"
    assert data_config(own, "t.JSONL.gz", {}).name == "text", "as of a model that learnt from text any is"
    for key, value in {"packing": "stream", "validation_fraction": "0.5", "licence": "MIT"}.items():
        with pytest.raises(
            RequestError, match=rf"data\.{key}={value} has no effect because all of the text is evaluated"
        ):
            refuse_idle({"path": "a.txt", key: value})
    with pytest.raises(RequestError, match=r"data\.path needs data=NAME"):
        data_config(own, "", {"path": "a.txt"})
    with pytest.raises(RequestError, match="data=txt not found - did you mean data=text"):
        data_config(own, "txt", {})
    with pytest.raises(RequestError, match=r"data\.pth"):
        data_config(own, "text", {"pth": "a.txt"})
