"""Pretrained runs of a second, once a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ssl.finetune.starts import Starts, write_table


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Starts:
    return Starts(text, tmp_path_factory.mktemp("starts"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "weather.csv")
