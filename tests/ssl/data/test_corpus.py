"""A corpus as a whole: what is kept, what is held out, what the fingerprint says, and when the cache is used."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rlgym.errors import RequestError
from rlgym.ssl.config import JsonlData, TextData
from rlgym.ssl.data import corpus as module
from rlgym.ssl.data.corpus import Corpus
from tests.ssl.corpora import build, staging, texts, write


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def letters(tmp_path: Path, count: int = 40) -> Path:
    folder = tmp_path / "letters"
    for number in range(count):
        write(folder / f"{number:03}.txt", f"letter {number} " * (1 + number % 5))
    return folder


def test_documents_lie_back_to_back_in_order(tmp_path: Path, cache: str) -> None:
    parts = ["one \u20ac\r\n", "two\n", "\U0001f600", "four"]
    for name, part in zip("abcd", parts, strict=True):
        write(tmp_path / "in" / f"{name}.txt", part)
    corpus = build(TextData(path=[str(tmp_path / "in")], cache=cache))
    assert texts(corpus) == parts
    assert corpus.text.tobytes().decode() == "".join(parts)
    assert corpus.starts.dtype == np.int64 and corpus.held_out.dtype == bool
    assert corpus.starts[0] == 0 and len(corpus.starts) == 5 and len(corpus.held_out) == 4
    assert corpus.facts["documents"] == 4 and corpus.facts["bytes"] == len("".join(parts).encode())
    assert corpus.fingerprint == corpus.facts["fingerprint"] and staging(Path(cache)) == []


def test_what_is_dropped_is_counted_and_leaves_no_trace(tmp_path: Path, cache: str) -> None:
    large = "x" * 3_000_000  # longer than a piece: written, then taken out again
    rows = [large, "short", "kept", large, "kept", "", "\u00e9" * 5]
    path = write(tmp_path / "in.txt", "|".join(rows))
    corpus = build(TextData(path=[str(path)], separator="|", min_length=4, cache=cache))
    assert texts(corpus) == [large, "short", "kept", "\u00e9" * 5]
    assert corpus.facts["duplicates"] == 2 and corpus.facts["too_short"] == 1 and corpus.facts["bad"] == 0
    assert len(corpus.text) == len("".join(texts(corpus)).encode())
    everything = build(TextData(path=[str(path)], separator="|", min_length=0, deduplicate=False, cache=cache))
    assert texts(everything) == [row for row in rows if row]  # a document of nothing is none
    characters = build(TextData(path=[str(path)], separator="|", min_length=6, cache=cache))
    assert "".join(texts(characters)) == large  # characters are counted, not bytes


def test_normalised_text_is_what_is_compared_and_measured(tmp_path: Path, cache: str) -> None:
    path = write(tmp_path / "in.txt", "e\u0301e\u0301|\u00e9\u00e9|\ufb01|abc")
    corpus = build(TextData(path=[str(path)], separator="|", normalize="NFC", min_length=2, cache=cache))
    assert texts(corpus) == ["\u00e9\u00e9", "abc"]
    assert corpus.facts["duplicates"] == 1 and corpus.facts["too_short"] == 1
    assert "fi" in texts(build(TextData(path=[str(path)], separator="|", normalize="NFKC", cache=cache)))


def test_a_single_document_is_cut_and_its_last_part_held_out(tmp_path: Path, cache: str) -> None:
    text = "\u20ac" * 1000
    path = write(tmp_path / "in.txt", text)
    corpus = build(TextData(path=[str(path)], validation_fraction=0.1, cache=cache))
    assert corpus.held_out.tolist() == [False, True]
    assert texts(corpus) == [text[:900], text[900:]]  # byte 2,700 begins a character
    corpus = build(TextData(path=[str(path)], validation_fraction=0.1003, cache=cache))
    assert [len(part) for part in texts(corpus)] == [899, 101]  # byte 2,699 does not
    with pytest.raises(RequestError, match="single character"):
        build(TextData(path=[str(write(tmp_path / "one.txt", "\u20ac"))], cache=cache))


def test_the_fingerprint_is_of_the_text_and_the_split_alone(tmp_path: Path, cache: str) -> None:
    folder = letters(tmp_path)
    first = build(TextData(path=[str(folder)], cache=cache))
    moved = tmp_path / "elsewhere"
    for number, file in enumerate(sorted(folder.iterdir())):
        write(moved / f"renamed-{number:03}.md", file.read_bytes(), settled=False)
    again = build(TextData(path=[str(moved)], cache=str(tmp_path / "other")))
    assert again.fingerprint == first.fingerprint and np.array_equal(again.held_out, first.held_out)
    for change in ("text", "order", "split", "border"):
        other = tmp_path / change
        contents = [file.read_text() for file in sorted(folder.iterdir())]
        if change == "text":
            contents[7] += "."
        elif change == "order":
            contents[7], contents[8] = contents[8], contents[7]
        elif change == "border":
            contents[7], contents[8] = contents[7] + contents[8][:1], contents[8][1:]
        for number, content in enumerate(contents):
            write(other / f"{number:03}", content)
        fraction = 0.2 if change == "split" else 0.05
        changed = build(TextData(path=[str(other)], cache=cache, validation_fraction=fraction))
        assert changed.fingerprint != first.fingerprint, change


def test_the_fingerprint_is_what_it_says(tmp_path: Path, cache: str) -> None:
    corpus = build(TextData(path=[str(letters(tmp_path))], cache=cache))
    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts(corpus))
    content = digests + corpus.starts.astype("<i8").tobytes() + corpus.held_out.tobytes()
    assert corpus.fingerprint == hashlib.sha256(content).hexdigest()


# ---- the cache


def never(*_: object) -> Corpus:
    raise AssertionError("read again")


def test_an_unchanged_source_is_not_read_again(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = letters(tmp_path)
    config = TextData(path=[str(folder)], cache=cache)
    first = build(config)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_read", never)
        again = build(TextData(path=[str(folder)], cache=cache, licence="MIT", packing="stream"))
        assert again.fingerprint == first.fingerprint and texts(again) == texts(first)
        assert again.facts == {**first.facts, "licence": "MIT"}
        for other in (
            TextData(path=[str(folder)], cache=cache, min_length=2),
            TextData(path=[str(folder)], cache=cache, separator="7"),
            TextData(path=[str(folder)], cache=cache, validation_fraction=0.1),
            JsonlData(path=[str(folder / "000.txt")], cache=cache),
            TextData(path=[str(folder)], cache=str(tmp_path / "other")),
        ):
            with pytest.raises(AssertionError, match="read again"):
                build(other)
    write(folder / "007.txt", "another letter")
    changed = build(config)
    assert "another letter" in texts(changed) and changed.fingerprint != first.fingerprint


def test_a_file_that_has_just_been_written_is_not_trusted_to_its_time(tmp_path: Path, cache: str) -> None:
    path = write(tmp_path / "in.txt", "some text", settled=False)
    time = path.stat().st_mtime_ns
    first = build(TextData(path=[str(path)], cache=cache))
    path.write_text("same size")
    os.utime(path, ns=(time, time))
    assert "".join(texts(build(TextData(path=[str(path)], cache=cache)))) == "same size"
    assert "".join(texts(first)) == "some text"


def test_the_same_text_is_stored_once(tmp_path: Path, cache: str) -> None:
    for name in ("a.txt", "b.txt"):
        build(TextData(path=[str(write(tmp_path / name, "the very same"))], cache=cache))
    assert len(list((Path(cache) / "corpora").iterdir())) == 1


@pytest.mark.parametrize("damage", ["text", "starts", "facts", "missing"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, cache: str, damage: str) -> None:
    config = TextData(path=[str(letters(tmp_path))], cache=cache)
    first = build(config)
    content, folder = texts(first), first.folder
    del first
    if damage == "text":
        os.truncate(folder / "documents.bin", 10)
    elif damage == "starts":
        (folder / "starts.npy").write_bytes(b"half")
    elif damage == "missing":
        (folder / "held_out.npy").unlink()
    else:
        next((Path(cache) / "sources").iterdir()).write_text("{")
    assert texts(build(config)) == content


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_preparation_starts_afresh(tmp_path: Path, cache: str) -> None:
    folder = letters(tmp_path)
    code = f"""
import os, signal
from rlgym.ssl.config import TextData
from rlgym.ssl.data import corpus
corpus.move_in = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
corpus.build_corpus(TextData(path=[{str(folder)!r}], cache={cache!r}), lambda *_: None)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -signal.SIGKILL
    assert len(staging(Path(cache))) == 1
    corpus = build(TextData(path=[str(folder)], cache=cache))
    assert len(texts(corpus)) == 40 and staging(Path(cache)) == []


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_full_disk_leaves_nothing(tmp_path: Path, cache: str) -> None:
    path = write(tmp_path / "in.txt", "text " * 100_000)
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(RequestError, match=f"cannot be written to {cache}") as caught:
            build(TextData(path=[str(path)], cache=cache))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path for path in Path(cache).rglob("*") if path.is_file()] == [] and staging(Path(cache)) == []
    assert "".join(texts(build(TextData(path=[str(path)], cache=cache)))) == "text " * 100_000


def test_memory_does_not_grow_with_the_text(tmp_path: Path, cache: str) -> None:
    path = tmp_path / "large.txt"
    with path.open("w") as file:
        for _ in range(40):
            file.write("some words and a line end\n" * 40_000)  # 1 MB
    tracemalloc.start()
    try:
        corpus = build(TextData(path=[str(path)], normalize="NFC", cache=cache))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(corpus.text) == path.stat().st_size > 40_000_000
    assert peak < 12_000_000


def test_progress_is_told_in_bytes(tmp_path: Path, cache: str) -> None:
    path = write(tmp_path / "in.txt", "x" * 3_500_000)
    told: list[tuple[str, int, int]] = []
    module.build_corpus(TextData(path=[str(path)], cache=cache), lambda *what: told.append(what))
    done = [part[1] for part in told]
    assert done == sorted(done) and done[-1] == 3_500_000 and len(done) >= 3
    assert {part[2] for part in told} == {3_500_000}
