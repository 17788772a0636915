"""A folder's lock: one process at a time, gone with its process, not passed on to its children."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from rlgym.errors import RequestError
from rlgym.run_folder.lock import locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks by the manifest alone")


def taken(folder: Path) -> bool:
    try:
        with locked(folder / "log.txt", folder):
            return False
    except RequestError as error:
        assert "is being trained by another process" in str(error)
        return True


def test_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "log.txt", tmp_path):
        assert taken(tmp_path)
    assert not taken(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


def test_it_dies_with_its_process_whatever_children_live_on(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path / "log.txt", tmp_path):
            grandchild = os.fork()
            if grandchild == 0:
                signal.pause()
            os.write(writing, f"{grandchild}\n".encode())
            signal.pause()
    grandchild = int(os.read(reading, 20))
    try:
        assert taken(tmp_path)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not taken(tmp_path)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opened for writing, it would wait for a reader
    for name in ("log.txt", "pipe"):
        with pytest.raises(RequestError, match="cannot be written"), locked(tmp_path / name, tmp_path):
            pass
