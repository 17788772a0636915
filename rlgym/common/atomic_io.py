"""Reading and atomic writing of small files: a crash leaves the old content or the new one."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml

YAML_BYTES = 1 << 20
"""Largest YAML file read, in characters: a config has a few thousand, and parsing a million takes a second."""
JSON_BYTES = 1 << 28
METRICS_BYTES = 1 << 30
DEEPEST = 64
"""Maximum nesting in a YAML file."""


def fsync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk; a no-op where folders cannot be opened (Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: str | bytes) -> None:
    """Write a file and fsync it."""
    with path.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: str | bytes, temporary_name: str = "") -> None:
    """Replace a file's content atomically: write a temporary file, fsync, rename. The temporary name is fixed, so that
    leftovers of a killed process get overwritten; one writer per file.
    """
    temporary = path.with_name(temporary_name or f".{path.name}.tmp")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # report the first error
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk's error has no filename
        raise
    fsync_folder(path.parent)


def without_waiting(name: str | Path, flags: int) -> int:
    """An `opener` for `open` that does not block on a named pipe."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


class Appended:
    """An append-only file, one system call per write. Data that a full disk rejects is kept and written first on the
    next write, so that no line is lost or torn."""

    def __init__(self, path: Path, mode: Literal["ab", "xb"] = "ab") -> None:
        self._file = open(path, mode, buffering=0, opener=without_waiting)  # noqa: SIM115  # closed by `close`
        self._left = b""

    def write(self, data: bytes) -> None:
        self._left += data
        while self._left:
            self._left = self._left[self._file.write(self._left) :]

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def to_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON: NaN and infinities become null, NumPy and torch scalars become numbers. One line without an
    indent."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy and torch, scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else str(value)


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes; ValueError for a larger one, and for a device or a pipe,
    which may have no end. OSError when it cannot be read."""
    with open(path, "rb", opener=without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain data. ValueError unless it is plain YAML of bounded size and depth without aliases,
    which could expand to fill memory. OSError when it cannot be read."""
    content = read_bounded(path, YAML_BYTES)
    depth = 0
    try:
        text = content.decode("utf-8-sig")
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it holds aliases")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError("nested too deeply")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_json(path: Path, most: int = JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object. ValueError when the content is anything else or larger than `most` bytes, OSError when it
    cannot be read."""
    try:
        value = json.loads(read_bounded(path, most))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The readable rows of a metrics.jsonl: torn or foreign lines are skipped, a missing file is empty."""
    return [row for _, row in parse_rows(path)]


def parse_rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The complete lines of a metrics.jsonl with their contents: numbers by tag, and an integer `step`."""
    rows: list[tuple[bytes, dict[str, Any]]] = []
    try:
        lines = read_bounded(path, METRICS_BYTES).split(b"\n")
    except (OSError, ValueError):
        return rows
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and _is_number(row["step"]):
            rows.append((line + b"\n", {tag: value for tag, value in row.items() if _is_number(value)}))
    return rows


def _is_number(value: Any) -> bool:
    """Whether a JSON value is null or a number that fits into 64 bits."""
    return value is None or isinstance(value, float) or (type(value) is int and value.bit_length() < 64)
