"""A few of the mutated requests of `python -m tests.faults.request_fuzz 2000`, as far as their configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.folder_fuzz import Folders
from tests.faults.request_fuzz import fuzz


def test_mutated_requests_run_or_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert fuzz(Folders(tmp_path), 60, seed=1, kinds=(), deep=False) == []
