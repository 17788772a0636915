"""The short version of the fuzz of run folders; the whole one is `python -m tests.faults.folder_fuzz 400`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.folder_fuzz import Folders, fuzz


def test_mutated_folders_end_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    faults = fuzz(Folders(tmp_path), 12, 11, ["ppo"], 1, ("evaluate", "runs", "rerun", "resume"))
    assert not faults, "\n".join(faults)
