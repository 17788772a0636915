"""Resolves `data.path` to files: files, folders and globs."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from rlgym.errors import RequestError
from rlgym.ssl.data.documents import no_text

PACKED = (".gz", ".zst")


def find_files(names: list[str], suffixes: tuple[str, ...] = ()) -> list[Path]:
    """Absolute paths, each once, in the order of `names`; sorted within a folder or glob. A folder stands for all files
    below it that end in one of `suffixes` (none given: all), compressed or not. Hidden files and folders are skipped
    unless named.
    """
    if not names:
        raise RequestError("data.path is empty: name files, folders or globs, as in data.path=corpus.txt")
    found: dict[Path, None] = {}
    for name in names:
        found.update(dict.fromkeys(_named(name, suffixes)))
    for path in found:
        if why := no_text(str(path)):  # paths are recorded as text
            raise RequestError(f"data.path={name}: the name of {str(path)!r} {why}; rename the file")
    return list(found)


def _named(name: str, suffixes: tuple[str, ...]) -> list[Path]:
    path = Path(os.path.abspath(Path(name).expanduser()))
    if path.is_dir():
        files = [
            file for file in files_below(path) if not suffixes or file.name.lower().endswith(_also_packed(suffixes))
        ]
        if not files:
            kind = f" that ends in {', '.join(suffixes)} (or these with {', '.join(PACKED)})" if suffixes else ""
            raise RequestError(f"data.path={name}: the folder holds no file{kind}")
        return files
    if path.is_file():
        return [path]
    if path.exists():
        raise RequestError(f"data.path={name}: neither a file nor a folder")
    if not glob.has_magic(name):
        raise RequestError(f"data.path={name}: no such file or folder")
    matches = sorted(Path(os.path.abspath(match)) for match in glob.glob(str(Path(name).expanduser()), recursive=True))
    files = [match for match in matches if match.is_file()]
    if not files:
        raise RequestError(f"data.path={name}: no file matches")
    return files


def files_below(folder: Path) -> list[Path]:
    """All non-hidden files below a folder, sorted by path."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += (Path(place, name) for name in names if not name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _also_packed(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return suffixes + tuple(suffix + packed for suffix in suffixes for packed in PACKED)
