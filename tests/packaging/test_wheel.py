"""The wheel, built from a copy of the tracked files, holds all of the code and imports alone under one name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.packaging.wheel import FOLDERS, ROOT, contents, differences, tracked

try:
    SETUPTOOLS = int(version("setuptools").split(".")[0])
except PackageNotFoundError:
    SETUPTOOLS = 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if SETUPTOOLS < 77:
        pytest.skip(f"building needs setuptools >= 77, here {SETUPTOOLS or 'none'}: pip install -e '.[dev]'")
    # A copy, so that no build/ of the checkout is read or written.
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in tracked():
        (source / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(target), "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = target.glob("*.whl")
    return path


def test_wheel_holds_exactly_the_tracked_files(wheel: Path) -> None:
    assert differences(wheel) == []
    names = contents(wheel).keys()
    assert {name.split("/")[0] for name in names} == {"rlgym"}
    assert {"rlgym/py.typed", "rlgym/agents/ppo.py", "rlgym/conf/__init__.py"} <= names


def test_wheel_imports_alone_under_one_name(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (points,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        assert "rlgym = rlgym.__main__:main" in archive.read(points).decode()
    packages = [name.replace("/", ".") for name in FOLDERS.values()]
    program = f"import {', '.join(packages)}\nfor p in ({', '.join(packages)}): print(*p.__path__)"
    command = [sys.executable, "-c", program]
    shown = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == [str(site / name) for name in FOLDERS.values()]
