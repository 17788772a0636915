"""Small files, replaced in one step: a crash leaves the old content or the new one, never half of either."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def to_json(value: Any) -> str:
    """JSON that any reader accepts: NaN and infinities become null, scalars of NumPy and torch become numbers."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError when the content is anything else, OSError when it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl that can be read: a torn or foreign line is left out, a missing file has none."""
    return [row for _, row in parse_rows(path)]


def parse_rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The whole lines of a metrics.jsonl beside what they say; each row has an integer `step`."""
    rows: list[tuple[bytes, dict[str, Any]]] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return rows
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append((line + b"\n", row))
    return rows
