"""Small files, replaced in one step: a crash leaves the old content or the new one, never half of either."""

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
"""Of the largest YAML file that is read: a config has a few thousand, and parsing takes a second for each million."""
JSON_BYTES = 1 << 28
METRICS_BYTES = 1 << 30
DEEPEST = 64
"""Levels of nesting in a YAML file."""


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a no-op where folders cannot be opened (Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: str | bytes) -> None:
    """Write a file and force it to the disk."""
    with path.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: str | bytes, temporary_name: str = "") -> None:
    """Replace a file's content in one step: temporary file beside it, fsync, rename.

    The temporary name is always the same, so what a killed process left is overwritten by the next; one writer a file.
    """
    temporary = path.with_name(temporary_name or f".{path.name}.tmp")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the reason is what was raised first
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names none
        raise
    fsync_folder(path.parent)


def without_waiting(name: str | Path, flags: int) -> int:
    """An `opener` for `open`: a named pipe in the place of a file does not block until somebody opens its other end."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


class Appended:
    """A file that is only appended to, each write by one system call. What a full disk does not take is kept, and goes
    before what is written next: no line is lost or torn when room is made."""

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
    """JSON that any reader accepts: NaN and infinities become null, scalars of NumPy and torch become numbers. Without
    an indent it is one line."""
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
    """What a YAML file says in plain data. ValueError when it is no plain YAML of bounded size and depth without
    aliases: a few lines of them can spell out a structure that fills the memory, or that never ends. OSError when it
    cannot be read."""
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
    """A JSON object; ValueError when the content is anything else or has more than `most` bytes, OSError when it cannot
    be read."""
    try:
        value = json.loads(read_bounded(path, most))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl that can be read: a torn or foreign line is left out, a missing file has none."""
    return [row for _, row in parse_rows(path)]


def parse_rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The whole lines of a metrics.jsonl beside what they say: numbers by tag, and an integer `step`."""
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
    """Whether a value of JSON is null or a number that arithmetic with 64 bits takes."""
    return value is None or isinstance(value, float) or (type(value) is int and value.bit_length() < 64)
