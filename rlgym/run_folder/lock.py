"""A lock on a run folder, held by the training process. The operating system releases it when the process dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlgym.common.atomic_io import without_waiting
from rlgym.errors import RequestError

try:
    import fcntl
except ImportError:  # Windows: only the process in the manifest is checked there
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()
"""Lock descriptors of this process. A forked child closes its copies, which would keep the lock alive."""


@contextmanager
def locked(file: Path, folder: Path) -> Iterator[None]:
    """Hold the lock on `folder`, by an append-only `file` in it. RequestError if another process holds it, or the file
    cannot be written."""
    try:
        descriptor = without_waiting(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be written ({error.strerror})") from None
    _held.add(descriptor)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(f"{folder} is being trained by another process; stop that one first") from None
            except OSError as error:
                print(
                    f"rlgym: {folder}: cannot be locked here ({error.strerror}); train in it only once", file=sys.stderr
                )
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            os.close(descriptor)


def _close_copies() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
