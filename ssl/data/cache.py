"""Prepared data on disk in folders that are always complete, so that nothing half-written is reused. A folder is built
under a temporary name and renamed into place. Names with a leading dot belong to a running process, or to one that
died, whose leftovers the next process removes.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import numpy as np

from rlgym.common.atomic_io import fsync_folder
from rlgym.errors import RequestError
from rlgym.run_folder.manifest import alive

FOREIGN_LEFTOVERS = 7 * 24 * 3600
"""Age in seconds at which another machine's unfinished folder counts as abandoned, since its processes cannot be
checked."""

_WORK = re.compile(r"\.staging-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{32}")
_WRITING_FAILED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}

_ours: set[Path] = set()  # folders this process is building


class Cached(Protocol):
    """A config with the field `cache`."""

    cache: str


def cache_folder(config: Cached) -> Path:
    """The folder of prepared data: `data.cache`, else $RLGYM_CACHE, else ~/.cache/rlgym."""
    chosen = config.cache or os.environ.get("RLGYM_CACHE") or "~/.cache/rlgym"
    return Path(chosen).expanduser().absolute()


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder that becomes `folder` if the block succeeds, and is removed otherwise."""
    with working(folder.parent) as work:
        yield work
        move_in(work, folder)


@contextmanager
def working(parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`, for `move_in`, removed at the block's end. RequestError naming the place if the
    disk is full or read-only.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _tidy(parent)
        work = parent / f".staging-{socket.gethostname()}-{os.getpid()}-{uuid4().hex}"
        work.mkdir()
    except OSError as error:
        raise _unwritable(parent, error) from error
    _ours.add(work)
    try:
        yield work
    except OSError as error:
        if error.errno in _WRITING_FAILED:
            raise _unwritable(parent, error) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)  # already gone if it was moved into place
        _ours.discard(work)


def save_array(path: Path, array: np.ndarray) -> None:
    """np.save through a Python file, since NumPy's own writing does not report why it failed."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path.write_bytes(buffer.getbuffer())


def move_in(work: Path, folder: Path) -> None:
    """Fsync a finished folder and rename it into place. If another process was faster, its folder stays: the name
    identifies the content.
    """
    for path in work.rglob("*"):
        if path.is_file():
            _fsync(path)
        else:
            fsync_folder(path)
    fsync_folder(work)
    try:
        os.rename(work, folder)
    except OSError:
        if not folder.is_dir():
            raise
    else:
        fsync_folder(folder.parent)


def _fsync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _tidy(parent: Path) -> None:
    """Remove leftovers of dead processes."""
    for path in parent.glob(".staging-*"):
        name = _WORK.fullmatch(path.name)
        if name is None or path in _ours:
            continue
        pid = int(name["pid"])
        with suppress(OSError):
            if name["host"] != socket.gethostname():
                dead = time.time() - path.stat().st_mtime > FOREIGN_LEFTOVERS
            else:
                dead = pid == os.getpid() or not alive(pid)
            if dead:
                shutil.rmtree(path, ignore_errors=True)


def _unwritable(parent: Path, error: OSError) -> RequestError:
    reason = error.strerror or str(error)
    return RequestError(
        f"prepared data cannot be written to {parent} ({reason}): make room there, or choose data.cache=FOLDER"
    )
