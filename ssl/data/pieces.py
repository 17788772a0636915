"""A long document in pieces that are tokenised by themselves, cut where the tokens come out as if it were whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

Read = Callable[[int, int], bytes]
"""(from, to): a text's bytes between the two."""


@contextmanager
def reading(text: np.ndarray) -> Iterator[Read]:
    """Reads of `text`, uint8 `[bytes]`.

    A memory-mapped one is read as a file: the pages of a map count as this process's memory until the system wants them
    back, and a gigabyte read from end to end would look like one held.
    """
    if not isinstance(text, np.memmap) or text.filename is None:
        yield lambda low, high: text[low:high].tobytes()
        return
    offset = text.offset
    with open(text.filename, "rb") as file:

        def read(low: int, high: int) -> bytes:
            file.seek(offset + low)
            return file.read(high - low)

        yield read


def pieces(read: Read, begin: int, end: int, size: int) -> Iterator[str]:
    """The text between two bytes, each the first of a character (or the end), in pieces of at most `size` bytes.

    An empty text is one empty piece.
    """
    at = begin
    while True:
        content = read(at, min(at + size, end))
        if not content and at < end:
            raise OSError(f"the prepared text ends {end - at} bytes early: another program changed it")
        if at + len(content) < end:
            content = content[: whole_characters(content)]
            text = content.decode()
            text = text[: cut(text)]
            at += len(text.encode())
            yield text
        else:
            yield content.decode()
            return


def whole_characters(content: bytes) -> int:
    """How many of the bytes remain when a character cut off at their end is left out."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0xC0 != 0x80:  # a character's first byte
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(content) if length == back else len(content) - back
    return len(content)


def cut(text: str) -> int:
    """Where to cut a text that goes on: as late as may be, in its second half.

    After a line end with something on both its sides: there the patterns of GPT-2, Llama 3, Qwen and BERT all cut, and
    so does a tokenizer of bytes or characters. Else before a lone space, for the same reason. A text with neither is
    cut where it ends, which may cost one merge.
    """
    half = len(text) // 2
    for mark, after in (("\n", 1), (" ", 0)):
        at = text.rfind(mark, half, len(text) - 1)
        while at > 0:
            if not text[at - 1].isspace() and not text[at + 1].isspace():
                return at + after
            at = text.rfind(mark, half, at)
    return len(text)
