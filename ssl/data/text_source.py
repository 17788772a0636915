"""Reads documents from plain text files."""

from __future__ import annotations

from rlgym.ssl.config import TextData
from rlgym.ssl.data.documents import Meter, Source, files_size
from rlgym.ssl.data.paths import find_files
from rlgym.ssl.data.reading import documents, unescaped


def open_text(config: TextData) -> Source:
    files = find_files(config.path)
    meter = Meter()
    separator = unescaped(config.separator)
    items = (item for path in files for item in documents(path, meter, separator))
    unit = "document" if separator else "file"
    return Source(items, meter, files_size(files), unit, files, ", ".join(config.path))
