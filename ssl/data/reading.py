"""Text from files, packed or not, a piece at a time: what is no UTF-8 text is found and never guessed at."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from rlgym.ssl.data.documents import Meter, Unreadable

PIECE = 1 << 20
"""Bytes read at once."""

LONGEST_LINE = 1 << 28
"""Characters; a longer line is taken for a file that has none, rather than into memory."""


def pieces(path: Path, meter: Meter) -> Iterator[str]:
    """The text of a UTF-8 file; a byte-order mark is left out. Unreadable where it is no text or cannot be unpacked."""
    before = meter.done
    try:
        with path.open("rb") as raw:
            decoder = codecs.getincrementaldecoder("utf-8")()
            stream = _unpacked(raw, path)
            done = 0
            while chunk := bytes(stream.read(PIECE)):
                text = _decode(decoder, chunk, done)
                meter.done = before + raw.tell()
                yield text.removeprefix("\ufeff") if done == 0 else text
                done += len(chunk)
            _decode(decoder, b"", done, final=True)
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


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, done: int, final: bool = False) -> str:
    """`chunk` begins at byte `done` of the file; the decoder may hold the begin of a character from before."""
    held = len(decoder.getstate()[0])
    nul = chunk.find(b"\0")
    try:
        text = decoder.decode(chunk if nul < 0 else chunk[:nul], final)
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {done - held + error.start} is not UTF-8, as in binary files") from None
    if nul >= 0:
        raise Unreadable(f"byte {done + nul} is NUL, as in binary files")
    return text


def lines(text: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in pieces, without their "\\n". Unreadable where there seem to be none."""
    begun: list[str] = []
    length = 0
    for piece in text:
        first, *others = piece.split("\n")
        begun.append(first)
        length += len(first)
        if length > LONGEST_LINE:
            raise Unreadable(f"a line of more than {LONGEST_LINE:,} characters")
        if others:
            yield "".join(begun)
            yield from others[:-1]
            begun, length = others[-1:], len(others[-1])
    if length:
        yield "".join(begun)
