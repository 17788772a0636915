"""Writes an export's folder atomically, never replacing anything but an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rlgym.errors import RequestError


def export_folder(path: str, run: Path, mark: str) -> Path:
    """The folder to write: `path`, or the run's export/. RequestError if it exists and is no export (recognised by the
    file `mark`)."""
    target = Path(path).expanduser() if path else run / "export"
    if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or (target / mark).is_file())):
        raise RequestError(f"path={target} holds something else than an export; choose another folder")
    return target


@contextmanager
def replacing(target: Path, faults: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """An empty folder that replaces `target` on success. `faults`: a library's exceptions, besides OSError, when it
    cannot write."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".export-", dir=target.parent) as work:
            made = Path(work) / "made"
            made.mkdir()
            yield made
            if target.exists():
                target.rename(Path(work) / "before")
            made.rename(target)
    except Exception as error:
        if not isinstance(error, (OSError, *faults)):
            raise
        raise RequestError(f"path={target}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
