"""Reads and writes the config.yaml of a run folder, and decides whether code it names may be imported."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from rlgym.common.atomic_io import read_yaml, write_atomic
from rlgym.config.io import VOUCHED, from_plain, root_of, to_yaml, vouch
from rlgym.config.schema import RootConfig
from rlgym.errors import RequestError
from rlgym.run_folder.folder import find_run


def save_config(config: RootConfig, path: Path) -> None:
    write_atomic(path, to_yaml(config))


def load_config(path: Path, trust: bool = False) -> Any:
    """The config (TrainConfig, PretrainConfig, ...) of a run folder, or of its config.yaml.

    Code that it names by `module:` is imported only with `trust`.
    """
    path = path / "config.yaml" if path.is_dir() else path
    data = _read(path)
    trust = trust or _vouched_for(path.parent)
    try:
        config = from_plain(data, trust)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error
    if trust:
        vouch(data)
    return config


def root_of_run(folder: Path) -> str:
    """The command that created the run in `folder`."""
    return root_of(_read(folder / "config.yaml")).root


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    except ValueError as error:
        raise RequestError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RequestError(f"{path} is not a config")
    return data


def _vouched_for(folder: Path) -> bool:
    for word in VOUCHED:
        with suppress(RequestError, OSError):  # not a run: reported by the code that opens it
            if find_run(word).dir.resolve() == folder.resolve():
                return True
    return False
