"""Streams of pieces give what reading the whole would give: bytes, characters, lines, separators, normal forms."""

from __future__ import annotations

import gzip
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest

from rlgym.ssl.data import reading
from rlgym.ssl.data.cleaning import _SAFE, normalized
from rlgym.ssl.data.documents import Bad, Item, Meter, Unreadable
from rlgym.ssl.data.reading import documents, lines, pieces


def cuts(text: str, generator: random.Random, longest: int = 9) -> Iterator[str]:
    at = 0
    while at < len(text):
        size = generator.randint(0, longest)
        yield text[at : at + size]
        at += size


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1 << 20])
def test_bytes_to_text_and_the_place_of_the_first_fault(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE", size)
    generator = random.Random(size)
    path = tmp_path / "some.txt"
    faults = 0
    for _ in range(300):
        text = "".join(generator.choices("ab\r\n\u00e9\u20ac\U0001f600\u0301", k=generator.randint(0, 12)))
        data = bytearray(text.encode())
        if generator.random() < 0.5 and data:
            data[generator.randrange(len(data))] = generator.choice([0, 0x80, 0xC3, 0xF0, 0xFF])
        path.write_bytes(data)
        found: list[str] = []
        nul = data.find(0)
        try:
            expected = data[: nul if nul >= 0 else None].decode()
            place = nul
        except UnicodeDecodeError as error:
            # A character that a NUL interrupts is reported at the NUL or where it begins: both are in the way.
            expected, place = data[: error.start].decode(), error.start
        if place < 0:
            assert "".join(pieces(path, Meter())) == expected
            continue
        faults += 1
        with pytest.raises(Unreadable, match="as in binary files") as caught:
            for piece in pieces(path, Meter()):
                found.append(piece)
        assert f"byte {place} " in str(caught.value) or (nul >= 0 and f"byte {nul} " in str(caught.value))
        assert expected.startswith("".join(found))
    assert faults > 50


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_bytes("\ufeffa\ufeffb".encode())
    assert "".join(pieces(path, Meter())) == "a\ufeffb"


def test_packed_files_are_unpacked_and_cut_ones_found(tmp_path: Path) -> None:
    text = "".join(f"line {number} \u00e9\n" for number in range(200_000))  # several pieces
    packed = {".gz": gzip.compress(text.encode()), ".zst": pyarrow.compress(text.encode(), "zstd", asbytes=True)}
    for suffix, data in packed.items():
        path = tmp_path / f"some.txt{suffix}"
        path.write_bytes(data)
        meter = Meter()
        parts = list(pieces(path, meter))
        assert "".join(parts) == text and max(map(len, parts)) <= reading.PIECE
        assert meter.done == len(data)
        path.write_bytes(data + data)  # as `cat a.gz b.gz` makes them
        assert "".join(pieces(path, Meter())) == text + text
        for damaged in (data[: len(data) // 2], data[:-1], b"no " + data):
            path.write_bytes(damaged)
            with pytest.raises(Unreadable, match="cannot be read"):
                list(pieces(path, Meter()))


def some_bytes(generator: random.Random, separator: bytes) -> bytes:
    """Separators, halves of them, text of one to four bytes a character, and bytes that are no text."""
    parts = [separator, separator[:-1], b"a", "\u00e9".encode(), "\U0001f600".encode(), b"\r", b"\n", b"\xe9", b"\0"]
    return b"".join(generator.choices(parts, [4, 2, 4, 2, 2, 1, 1, 1, 1], k=generator.randint(0, 14)))


def strictly(part: bytes) -> str | None:
    try:
        return None if b"\0" in part else part.decode()
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("size", [3, 5, 1 << 20])
def test_only_the_lines_that_are_no_text_are_lost(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIECE", size)
    generator, path = random.Random(size), tmp_path / "some.txt"
    for _ in range(200):
        data = some_bytes(generator, b"\n")
        path.write_bytes(data)
        parts = data.split(b"\n")
        found = list(lines(path, Meter()))
        assert [None if why else text for text, why in found] == list(map(strictly, parts if parts[-1] else parts[:-1]))
        assert [text.encode(errors="surrogateescape") for text, _ in found] == (parts if parts[-1] else parts[:-1])


def test_a_line_that_does_not_end_is_left_out_and_not_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 10)
    monkeypatch.setattr(reading, "PIECE", 4)
    path = tmp_path / "some.txt"
    path.write_text("a" * 10 + "\n" + "b" * 1_000 + "\nc\n" + "d" * 11)
    found = list(lines(path, Meter()))
    assert [text for text, _ in found] == ["a" * 10, "", "c", ""]
    assert [why for _, why in found] == ["", "a line of 1,000 bytes; at most 10 are read", "", found[3][1]] != [""] * 4


@pytest.mark.parametrize("separator", ["|", "||", "<|end|>", "aab", "\u00e9\u00e9"])
def test_only_the_documents_that_are_no_text_are_lost(
    separator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Separators may lie across pieces; a document is text or Bad, whatever stands around it."""
    generator, path = random.Random(2), tmp_path / "some.txt"
    for number in range(200):
        monkeypatch.setattr(reading, "PIECE", generator.randint(3, 9))
        data = some_bytes(generator, separator.encode())
        path.write_bytes(data)
        found: list[str | None] = [""]
        for item in documents(path, Meter(), separator):
            if isinstance(item, Bad):
                place = int(item.why.split()[1])
                assert not strictly(data[place : place + 1]) and item.where == str(path)
                found[-1] = None
                found.append("")
            else:
                found[-1] = (found[-1] or "") + item[0]
                found += [""] if item[1] else []
        expected = list(map(strictly, data.split(separator.encode())))
        assert found[:-1] == expected, number


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_normal_forms_across_pieces(form: str) -> None:
    generator = random.Random(3)
    # Composing pairs, marks that are reordered, Korean letters that become syllables, ligatures, plain letters.
    alphabet = "ae\u0301\u0327\u0323\u1100\u1161\u11a8\uac00\ufb01\u0b47\u0b3e<\u0338\u4e00\u304b\u3099 "
    for _ in range(500):
        text = "".join(generator.choices(alphabet, k=generator.randint(1, 40)))
        items: list[Item] = [(piece, False) for piece in cuts(text, generator)]
        found = normalized([*items, ("", True)], form)
        assert "".join(item[0] for item in found if not isinstance(item, Bad)) == unicodedata.normalize(form, text)  # type: ignore[arg-type]


def test_safe_characters_never_join_the_one_before() -> None:
    seconds = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # Korean: composed by rule
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(chr(int(parts[1], 16)))
    assert "\u0301" in seconds and "\u3099" in seconds
    for code in range(0x110000):
        if _SAFE.match(chr(code)):
            first = unicodedata.normalize("NFKD", chr(code))[0]
            assert unicodedata.combining(first) == 0 and first not in seconds


def test_normalising_holds_back_little() -> None:
    pieces_of = ("ab\u0301 " * 250, False)  # no pair here composes, so as many characters come as go
    sizes = [len(item[0]) for item in normalized([pieces_of] * 5, "NFC") if not isinstance(item, Bad)]
    assert sizes == [999, 1000, 1000, 1000, 1000]  # but for the last blank, before which the text is cut
