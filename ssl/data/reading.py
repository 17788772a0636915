"""Reads text files piece by piece, compressed or not; invalid UTF-8 is reported, never guessed."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from rlgym.ssl.data.documents import Bad, Item, Meter, Unreadable

PIECE = 1 << 20
"""Bytes per read."""

LONGEST_LINE = 1 << 28
"""Longest line in bytes; longer ones are skipped to bound memory."""

ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t"}
"""Escapes for characters that are hard to type on a command line."""

MARK = "\ufeff"
"""A byte order mark at a file's beginning."""


def documents(path: Path, meter: Meter, separator: str = "") -> Iterator[Item]:
    """The documents of a UTF-8 file in pieces: the parts between separators, or the whole file. An invalid document is
    Bad without affecting the others; so is the rest of an unreadable file.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    at, why = 0, ""  # position in the file; error of the document
    try:
        for data, ends in cut(chunks(path, meter), separator.encode()):
            if not why:
                try:
                    text = decoder.decode(data, ends)
                    why = _nul(data, at)
                except UnicodeDecodeError as error:
                    why = _no_text(at - len(decoder.getstate()[0]), error)
                if why:
                    yield Bad(str(path), why)
                else:
                    yield (text.removeprefix(MARK) if at == 0 else text), ends
            at += len(data)
            if ends:
                at, why = at + len(separator.encode()), ""
                decoder.reset()
    except Unreadable as error:
        yield Bad(str(path), str(error))


def pieces(path: Path, meter: Meter) -> Iterator[str]:
    """The text of a UTF-8 file as one document; Unreadable if it is invalid or cannot be decompressed."""
    for item in documents(path, meter):
        if isinstance(item, Bad):
            raise Unreadable(item.why)
        yield item[0]


def lines(path: Path, meter: Meter) -> Iterator[tuple[str, str]]:
    """(line without its "\\n", why it is no text or empty) of a UTF-8 file. Bytes that are no text are escaped as
    Python escapes them (`surrogateescape`), so that the text around them can be parsed. Unreadable where the file
    cannot be read or unpacked any more."""
    at, begun, dropped = 0, bytearray(), 0  # position in the file; kept and skipped parts of the current line

    def line(end: bytes) -> tuple[str, str]:
        nonlocal at, dropped
        data = bytes(begun) + end if begun else end
        size, place = dropped + len(data), at
        at, dropped = at + size + 1, 0
        begun.clear()
        if size > LONGEST_LINE:
            return "", f"a line of {size:,} bytes; at most {LONGEST_LINE:,} are read"
        try:
            text, why = data.decode(), _nul(data, place)
        except UnicodeDecodeError as error:
            text, why = data.decode(errors="surrogateescape"), _no_text(place, error)
        return (text.removeprefix(MARK) if place == 0 else text), why

    for chunk in chunks(path, meter):
        *whole, rest = chunk.split(b"\n")
        yield from map(line, whole)
        begun += rest
        if len(begun) > LONGEST_LINE:
            dropped += len(begun)
            begun.clear()
    if begun or dropped:
        yield line(b"")


def chunks(path: Path, meter: Meter) -> Iterator[bytes]:
    """The decompressed bytes of a file; Unreadable if reading or decompressing fails."""
    before = meter.done
    try:
        with path.open("rb") as raw:
            stream = _unpacked(raw, path)
            while chunk := bytes(stream.read(PIECE)):
                meter.done = before + raw.tell()
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(f"cannot be read ({reason})") from None


def _unpacked(raw: IO[bytes], path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".zst":
        import pyarrow

        return pyarrow.CompressedInputStream(raw, "zstd")
    return raw


def cut(data: Iterable[bytes], separator: bytes) -> Iterator[tuple[bytes, bool]]:
    """(piece, ends): pieces of the parts between separators, which may span two pieces of `data`."""
    rest = b""
    for piece in data:
        *whole, rest = (rest + piece).split(separator) if separator else [rest + piece]
        for part in whole:
            yield part, True
        open_from = max(0, len(rest) - max(0, len(separator) - 1))  # a separator may start from here on
        if open_from:
            yield rest[:open_from], False
            rest = rest[open_from:]
    yield rest, True


def unescaped(text: str) -> str:
    """A typed separator or delimiter, with escapes for newlines and tabs resolved."""
    for escape, character in ESCAPES.items():
        text = text.replace(escape, character)
    return text


def _nul(data: bytes, at: int) -> str:
    """The position of a NUL in bytes that start at byte `at` of a file; empty if there is none."""
    found = data.find(b"\0")
    return f"byte {at + found} is NUL, as in binary files and UTF-16" if found >= 0 else ""


def _no_text(at: int, error: UnicodeDecodeError) -> str:
    """The first encoding error in bytes that start at byte `at` of a file."""
    if why := _nul(error.object[: error.start], at):
        return why
    place = at + error.start
    likely = "UTF-16" if place == 0 and error.object[0] in (0xFE, 0xFF) else "LATIN1"  # a byte order mark, or a letter
    return (
        f"byte {place} is not UTF-8, as in binary files or another encoding; iconv -f {likely} -t UTF-8 converts text"
    )
