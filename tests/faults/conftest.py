"""Fixtures of the faults of text: a cache of each test's own, and the command in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlgym.cli.main import main
from tests.command.conftest import Answer
from tests.ssl import tiny


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of each test's own: what a preparation leaves behind is what is looked at."""
    with tiny.cache(tmp_path_factory.mktemp("cache")) as folder:
        yield folder


@pytest.fixture
def here(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rlgym(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command in this process."""

    def run(*words: str) -> Answer:
        capsys.readouterr()
        code = main(list(words))
        written = capsys.readouterr()
        return Answer(code, written.out, written.err)

    return run
