"""Folders of the cache exist only complete: after failures, after kill -9, with two processes at the same one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlgym.errors import RequestError
from rlgym.ssl.config import TextData
from rlgym.ssl.data.cache import cache_folder, staged
from tests.ssl.corpora import staging


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "thing"
    with staged(target) as work:
        (work / "part").write_text("1")
        assert not target.exists()
    assert (target / "part").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["thing"]


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "thing") as work:
        (work / "part").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_of_two_builders_the_first_to_finish_stays(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    with staged(target) as slow:
        (slow / "by").write_text("slow")
        with staged(target) as fast:
            (fast / "by").write_text("fast")
        assert slow.is_dir()  # who works is left alone
    assert (target / "by").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_what_a_killed_process_left_is_never_used_and_removed(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    code = f"""
import os, signal
from pathlib import Path
from rlgym.ssl.data.cache import staged
with staged(Path({str(target)!r})) as work:
    (work / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -signal.SIGKILL
    assert len(staging(tmp_path)) == 1 and not target.exists()
    with staged(target) as work:
        assert list(work.iterdir()) == []
        (work / "part").write_text("whole")
    assert (target / "part").read_text() == "whole" and staging(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_full_disk_is_one_line_that_names_the_cache(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(RequestError) as caught, staged(tmp_path / "cache" / "thing") as work:
            (work / "part").write_bytes(bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "cache") in str(caught.value) and "data.cache" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="data.cache=FOLDER"), staged(tmp_path / "file" / "thing"):
        pass


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged(tmp_path / "thing"):
        (tmp_path / "missing").read_text()


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLGYM_CACHE", str(tmp_path / "a"))
    assert cache_folder(TextData(cache=str(tmp_path / "b"))) == tmp_path / "b"
    assert cache_folder(TextData()) == tmp_path / "a"
    monkeypatch.delenv("RLGYM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(TextData()) == tmp_path / ".cache" / "rlgym"
