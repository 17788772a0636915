"""The folders at the root import under one name and take no other's: the standard library's `ssl` stays itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.wheel import FOLDERS, ROOT, tracked


def python(*words: str, cwd: Path = ROOT, **env: str) -> str:
    shown = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=120
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    return shown.stdout.strip()


def test_no_folder_of_the_root_is_a_package_of_its_own() -> None:
    """ssl/__init__.py would replace the standard library's ssl; agents/__init__.py another well-known package."""
    files = {str(path) for path in tracked()}
    assert not files & {"ssl/__init__.py", "ssl.py", "agents/__init__.py", "agents.py", "tests/__init__.py"}
    assert {"conf/__init__.py", "rlgym/__init__.py"} <= files


def test_links_for_type_checkers_are_relative() -> None:
    for name in ("agents", "ssl", "conf"):
        assert os.readlink(ROOT / "rlgym" / name) == os.path.join("..", name)


def test_standard_ssl_from_the_root_in_python_c() -> None:
    program = "import ssl, sysconfig; ssl.create_default_context(); print(ssl.__file__)"
    assert not Path(python("-c", program)).is_relative_to(ROOT / "ssl")


def test_standard_ssl_in_pytest(tmp_path: Path) -> None:
    test = tmp_path / "test_ssl.py"
    test.write_text(f"def test_ssl():\n    import ssl, sys\n    assert {str(ROOT)!r} in sys.path\n    ssl.SSLContext\n")
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(test))


def test_standard_ssl_in_the_program() -> None:
    """runpy imports as `python -m rlgym` does, with the root first on sys.path."""
    program = "import sys, runpy\nsys.argv[1:] = ['--help']\ntry: runpy.run_module('rlgym', run_name='__main__')\n"
    program += "except SystemExit as end: assert not end.code, end.code\nimport ssl; ssl.create_default_context()"
    python("-c", program)
    assert "agent=" in python("-m", "rlgym", "--help")


@pytest.mark.parametrize("names", [list(FOLDERS), ["conf", "ssl", "agents"]])
def test_imports_from_the_checkout_in_another_folder(names: list[str], tmp_path: Path) -> None:
    """From anywhere, and whichever comes first, `rlgym.x` is the folder x of this checkout."""
    packages = [FOLDERS[name].replace("/", ".") for name in names]
    program = f"import {', '.join(packages)}\nfor p in ({', '.join(packages)}): print(p.__path__[0])"
    shown = python("-c", program, cwd=tmp_path, PYTHONPATH=str(ROOT)).splitlines()
    assert [path for name, path in zip(names, shown, strict=True) if name != "rlgym"] == [
        str(ROOT / name) for name in names if name != "rlgym"
    ]


def test_imports_without_the_links(tmp_path: Path) -> None:
    """A clone on a system without symbolic links has small text files in their place."""
    for path in tracked():
        if path.suffix in {".py", ".toml", ".md"} and path.parts[0] in {*FOLDERS, "pyproject.toml"}:
            (tmp_path / path.parent).mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    for name in ("agents", "ssl", "conf"):
        (tmp_path / "rlgym" / name).write_text(f"../{name}")
    program = (
        "import rlgym.agents.configs.on_policy, rlgym.conf, rlgym.ssl; print(rlgym.agents.configs.on_policy.__file__)"
    )
    assert python("-c", program, cwd=tmp_path) == str(tmp_path / "agents" / "configs" / "on_policy.py")


def test_starting_stays_light() -> None:
    heavy = ("torch", "transformers", "datasets", "stable_baselines3", "tensorboard", "matplotlib", "moviepy", "scipy")
    program = f"import sys, rlgym, rlgym.cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert python("-c", program) == "[]"


def test_train_and_load_are_functions_every_time() -> None:
    """Importing a submodule sets its name on the package: `rlgym.train` must not be a module after the first use."""
    program = "import rlgym; print([callable(getattr(rlgym, name)) for name in ('train', 'load') * 2])"
    assert python("-c", program) == "[True, True, True, True]"
