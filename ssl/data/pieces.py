"""Cuts a long document into pieces that are tokenised separately, at places where the tokens are the same as for the
whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

Read = Callable[[int, int], bytes]
"""(from, to) -> a text's bytes in between."""


@contextmanager
def reading(text: np.ndarray) -> Iterator[Read]:
    """A reader of `text`, uint8 `[bytes]`. A memory-mapped one is read as a file, since pages of a map count as this
    process's memory until they are reclaimed.
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
    """The text between two positions, each at the start of a character (or the end), in pieces of at most `size` bytes.
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
    """Number of bytes without an incomplete character at the end."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0xC0 != 0x80:  # the first byte of a character
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(content) if length == back else len(content) - back
    return len(content)


def cut(text: str) -> int:
    """Where to cut a text that continues: as late as possible, in its second half. After a line end between non-blank
    characters, where the patterns of GPT-2, Llama 3, Qwen and BERT all split, as do byte and character tokenizers. Else
    before a single space, for the same reason. A text with neither is cut at its end, which may cost one merge.
    """
    half = len(text) // 2
    for mark, after in (("\n", 1), (" ", 0)):
        at = text.rfind(mark, half, len(text) - 1)
        while at > 0:
            if not text[at - 1].isspace() and not text[at + 1].isspace():
                return at + after
            at = text.rfind(mark, half, at)
    return len(text)
