"""Token streams: their layout, pieces that come out like the whole, reuse, and preparations that fail."""

from __future__ import annotations

import errno
import random
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from rlgym.errors import RequestError
from rlgym.ssl.config import BpeTokenizer, ByteTokenizer, CharTokenizer
from rlgym.ssl.data import tokens as tokens_module
from rlgym.ssl.data.build_tokenizer import build_tokenizer
from rlgym.ssl.data.corpus import Corpus
from rlgym.ssl.data.pieces import cut, pieces, reading, whole_characters
from rlgym.ssl.data.progress import silent
from rlgym.ssl.data.tokenizer import Tokenizer, byte_alphabet
from rlgym.ssl.data.tokens import Tokens, tokenize
from tests.ssl.small_corpus import CODE, corpus_of

DOCUMENTS = [CODE, "x", "second\r\n\r\n", "🙂" * 7, "<|endoftext|>[SEP]", CODE * 2, " \n "]
HELD_OUT = [2, 5]


def expected(corpus: Corpus, tokenizer: Tokenizer, causal: bool, held_out: bool) -> tuple[list[int], list[int]]:
    """The layout, document by document."""
    ids: list[Any] = []
    starts = []
    for index in np.flatnonzero(corpus.held_out == held_out):
        starts.append(len(ids))
        inside = tokenizer.encode(corpus.document(int(index)))
        ids += [tokenizer.eos_id, *inside] if causal else [tokenizer.cls_id, *inside, tokenizer.sep_id]
    return ids + [tokenizer.eos_id] * causal, starts


@pytest.mark.parametrize("piece", [1 << 17, 16])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "masked"])
@pytest.mark.parametrize(
    "config", [BpeTokenizer(vocab_size=400), CharTokenizer(), ByteTokenizer()], ids=lambda c: c.name
)
def test_layout(tmp_path: Path, config: Any, causal: bool, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(tmp_path, DOCUMENTS, HELD_OUT)
    tokenizer = build_tokenizer(config, corpus, causal, silent)
    if piece == 16 and config.name == "bpe":
        pytest.skip("its words are longer than such pieces")
    monkeypatch.setattr(tokens_module, "PIECE", piece)
    monkeypatch.setattr(tokens_module, "DOCUMENTS_AT_ONCE", 2)
    told: list[tuple[int, int]] = []
    parts = tokenize(corpus, tokenizer, causal, lambda what, done, total: told.append((done, total)))
    assert [part.split for part in parts] == ["train", "validation"]
    for part, held_out in zip(parts, (False, True), strict=True):
        ids, starts = expected(corpus, tokenizer, causal, held_out)
        assert part.ids.tolist() == ids and part.starts.tolist() == starts and part.ids.dtype == np.uint16
        assert part.text_bytes == tokenizer.token_bytes[part.ids].sum()
    size = len(corpus.text)
    assert told[0] == (0, size) and told[-1] == (size, size) and told == sorted(told)


def test_an_empty_document_is_one(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ["", "a", ""], [2])
    for causal, train, validation in ((True, [0, 0, 99, 0], [0, 0]), (False, [1, 2, 1, 101, 2], [1, 2])):
        tokenizer = build_tokenizer(ByteTokenizer(), corpus, causal, silent)
        first, second = tokenize(corpus, tokenizer, causal, silent)
        assert (first.ids.tolist(), second.ids.tolist()) == (train, validation)


def test_a_large_vocabulary_takes_wider_numbers(tmp_path: Path) -> None:
    for size, dtype in ((65_535, np.uint16), (70_000, np.uint32)):
        words = ["<|endoftext|>", "<|pad|>", *byte_alphabet()]
        words += [f"unused{i}" for i in range(size - len(words))]
        backend = Backend(models.BPE(vocab={word: size - 1 - i for i, word in enumerate(words)}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        tokenizer = Tokenizer(backend, {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"})
        corpus = corpus_of(tmp_path, ["ab", "c"])
        train, _ = tokenize(corpus, tokenizer, True, silent)
        assert train.ids.dtype == dtype
        assert train.ids.tolist() == [size - 1, *tokenizer.encode("ab"), size - 1]


# ---- pieces


def test_pieces_come_out_like_the_whole(tmp_path: Path) -> None:
    """For text with lines or words shorter than half a piece, wherever the cuts fall."""
    generator = random.Random(0)
    parts = [
        "def f(x):\n",
        "    return x\n",
        "\n",
        "\n\n\n",
        "don't ",
        "it's",
        " 'll",
        "\t\ttab\n",
        "a\r\nb\r\n",
        "  two  ",
    ]
    parts += [
        "naïve ",
        "東京 ",
        "🙂\n",
        "x" * 9,
        " (y)",
        "12 ",
        "3.5\n",
        "... ",
        "\u2003",
        "\xa0\n",
        "\x1c",
        "\x85",
        " \n ",
    ]
    text = "".join(generator.choice(parts) for _ in range(3_000))
    tokenizer = build_tokenizer(BpeTokenizer(vocab_size=600), corpus_of(tmp_path, [text, "x"]), True, silent)
    whole, content = tokenizer.encode(text), text.encode()
    # GPT-2's pattern is the tokenizer's; one of Llama 3's and Qwen's kind joins line ends to what stands before them.
    joining = Backend.from_str(tokenizer.backend.to_str())
    joining.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                pattern=Regex(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
                    r"\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                behavior="isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    joined = joining.encode(text).ids
    with reading(np.frombuffer(content, np.uint8)) as read:
        for size in (200, 333, 1_000, 4_096):
            found = list(pieces(read, 0, len(content), size))
            assert "".join(found) == text and all(len(piece.encode()) <= size for piece in found)
            assert len(found) >= len(content) // size
            assert [i for piece in found for i in tokenizer.encode(piece)] == whole, size
            assert [i for piece in found for i in joining.encode(piece).ids] == joined, size


def test_text_without_a_place_to_cut_is_cut_all_the_same() -> None:
    text = "東🙂é" * 100 + "\n\n\n" * 50
    content = text.encode()
    with reading(np.frombuffer(content, np.uint8)) as read:
        for size in range(4, 30):
            found = list(pieces(read, 0, len(content), size))
            assert "".join(found) == text and all(0 < len(piece.encode()) <= size for piece in found)


def test_where_to_cut() -> None:
    assert cut("aaaa\nbb\nc d") == len("aaaa\nbb\n")
    assert cut("aaaaaaa bb\n\n d") == len("aaaaaaa"), "nowhere within a run of whitespace: its last joins what follows"
    assert cut("aaaa\nbbbbbbbb") == 13, "not in the first half"
    assert [whole_characters("a🙂".encode()[:n]) for n in range(6)] == [0, 1, 1, 1, 1, 5]


def test_a_mapped_file_is_read_with_its_offset(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"0123456789")
    with reading(np.memmap(tmp_path / "text", np.uint8, "r", offset=3)) as read:
        assert read(1, 3) == b"45" and read(0, 2) == b"34" and read(5, 99) == b"89"


def test_a_text_that_was_cut_off_meanwhile_ends_in_an_error() -> None:
    with reading(np.frombuffer(b"ab\ncd\nef", np.uint8)) as read, pytest.raises(OSError, match="ends 3 bytes early"):
        list(pieces(read, 0, 11, 6))


# ---- reuse and failure


@pytest.fixture
def ready(tmp_path: Path) -> tuple[Corpus, Tokenizer]:
    corpus = corpus_of(tmp_path, DOCUMENTS, HELD_OUT)
    return corpus, build_tokenizer(ByteTokenizer(), corpus, True, silent)


def same(first: Tokens, second: Tokens) -> bool:
    return bool(np.array_equal(first.ids, second.ids) and np.array_equal(first.starts, second.starts))


def refuse(*_: Any) -> None:
    raise AssertionError("prepared again")


def test_prepared_once_for_the_same_text_tokenizer_and_layout(
    ready: tuple[Corpus, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, tokenizer = ready
    train, validation = tokenize(corpus, tokenizer, True, silent)
    monkeypatch.setattr(tokens_module, "_prepare", refuse)
    again = tokenize(corpus, tokenizer, True, silent)
    assert same(train, again[0]) and same(validation, again[1]) and isinstance(again[0].ids, np.memmap)
    assert (train.text_bytes, train.split) == (again[0].text_bytes, again[0].split)
    masked = build_tokenizer(ByteTokenizer(), corpus, False, silent)
    other = corpus_of(corpus.folder.parent.parent, [*DOCUMENTS, "more"], HELD_OUT)
    for arguments in ((corpus, masked, False), (other, tokenizer, True)):
        with pytest.raises(AssertionError, match="prepared again"):
            tokenize(*arguments, silent)


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "train_starts.npy", "facts.json"])
@pytest.mark.parametrize("damage", ["short", "gone"])
def test_what_is_damaged_is_prepared_anew(ready: tuple[Corpus, Tokenizer], name: str, damage: str) -> None:
    corpus, tokenizer = ready
    train, validation = (
        Tokens(np.array(t.ids), t.starts, t.text_bytes) for t in tokenize(corpus, tokenizer, True, silent)
    )
    (file,) = corpus.folder.parent.parent.glob(f"tokens/*/{name}")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-2])
    again = tokenize(corpus, tokenizer, True, silent)
    assert same(train, again[0]) and same(validation, again[1])


def test_an_interrupted_preparation_restarts_cleanly(
    ready: tuple[Corpus, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, tokenizer = ready
    monkeypatch.setattr(tokens_module, "DOCUMENTS_AT_ONCE", 1)

    def interrupt(what: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(corpus, tokenizer, True, interrupt)
    assert not list((corpus.folder.parent.parent / "tokens").iterdir())
    train, _ = tokenize(corpus, tokenizer, True, silent)
    assert train.ids.tolist() == expected(corpus, tokenizer, True, False)[0]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    ready: tuple[Corpus, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, tokenizer = ready
    append = tokens_module._Stream._append

    def full(stream: tokens_module._Stream, out: array[int]) -> None:
        if stream.tokens:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(stream, out)

    with monkeypatch.context() as patch:
        patch.setattr(tokens_module, "DOCUMENTS_AT_ONCE", 1)
        patch.setattr(tokens_module._Stream, "_append", full)
        with pytest.raises(RequestError, match=r"tokens \(No space left on device\).*data.cache=FOLDER") as error:
            tokenize(corpus, tokenizer, True, silent)
    assert "\n" not in str(error.value)
    assert not list((corpus.folder.parent.parent / "tokens").iterdir())
    assert tokenize(corpus, tokenizer, True, silent)[0].ids.tolist() == expected(corpus, tokenizer, True, False)[0]


def test_characters_that_validation_alone_has_are_refused(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ["abc", "aßc"])
    tokenizer = build_tokenizer(CharTokenizer(byte_fallback=False), corpus, True, silent)
    with pytest.raises(RequestError, match="'ß'"):
        tokenize(corpus, tokenizer, True, silent)


# ---- speed


@pytest.mark.slow
def test_speed_beside_the_encoder_alone_and_bounded_memory(tmp_path: Path) -> None:
    """The benchmark of docs/results.md in small: one long document and many short ones, alternating three times."""
    import statistics
    import time

    import psutil

    text = (CODE * 200 + "".join(f"{i} lorem ipsum dolor sit {i * 7919 % 1000}\n" for i in range(9_000))) * 12
    documents = [text, *(text[at : at + 900] for at in range(0, len(text) // 4, 900)), "x"]
    corpus = corpus_of(tmp_path, documents)
    tokenizer = build_tokenizer(BpeTokenizer(vocab_size=2_000), corpus, True, silent)
    strings = [text[at : at + (1 << 17)] for at in range(0, len(text), 1 << 17)] + documents[1:]
    ratios = []
    for attempt in range(3):
        began = time.perf_counter()
        for at in range(0, len(strings), 16):
            tokenizer.backend.encode_batch_fast(strings[at : at + 16], add_special_tokens=False)
        alone = time.perf_counter() - began
        before = psutil.Process().memory_info().rss
        peak = 0

        def watch(what: str, done: int, total: int) -> None:
            nonlocal peak
            peak = max(peak, psutil.Process().memory_info().rss)

        began = time.perf_counter()
        tokens_module._prepare(_folder(tmp_path / str(attempt)), corpus, tokenizer, True, watch)
        ratios.append(alone / (time.perf_counter() - began))
        assert peak - before < 1 << 30
    assert statistics.median(ratios) >= 0.8, ratios


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
