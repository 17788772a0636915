"""Documents from plain text files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rlgym.ssl.config import TextData
from rlgym.ssl.data.documents import Bad, Item, Meter, Source, Unreadable, files_size
from rlgym.ssl.data.paths import find_files
from rlgym.ssl.data.reading import pieces


def open_text(config: TextData) -> Source:
    files = find_files(config.path)
    meter = Meter()
    return Source(
        _items(files, config.separator, meter), meter, files_size(files), "file", files, ", ".join(config.path)
    )


def _items(files: list[Path], separator: str, meter: Meter) -> Iterator[Item]:
    for path in files:
        text = pieces(path, meter)
        try:
            yield from cut(text, separator) if separator else ((piece, False) for piece in text)
        except Unreadable as error:
            yield Bad(str(path), str(error))
        else:
            yield "", True


def cut(text: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Pieces of a text cut wherever `separator` stands, which may lie across two pieces. The last part stays open."""
    rest = ""
    for piece in text:
        *whole, rest = (rest + piece).split(separator)
        for part in whole:
            yield part, True
        open_from = max(0, len(rest) - len(separator) + 1)  # from here on a separator may have begun
        if open_from:
            yield rest[:open_from], False
            rest = rest[open_from:]
    yield rest, False
