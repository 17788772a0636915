"""Crash-safe checkpoints: safetensors and JSON, staged, checksummed, renamed into place. No pickle.

    checkpoints/step_N/<section>.safetensors   the tensors of a section
    checkpoints/step_N/state.json              everything else of every section, and the loop's own state
    checkpoints/step_N/manifest.json           schema, SHA-256 and size of each file, versions
    checkpoints/shared/<name>.safetensors      tensors that never change, named by all checkpoints that hold them
    checkpoints/latest, checkpoints/best       names of folders; hints for people, never trusted

A folder named step_N is always complete, including the shared files it refers to. Folders with a leading dot belong to
a running process, or to one that died.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from rlgym.common.atomic_io import fsync_folder, read_bounded, read_json, to_json, write_atomic, write_synced
from rlgym.errors import CheckpointError, RequestError
from rlgym.learner import REPLAY, Shared, SharedFile
from rlgym.run_folder.manifest import alive, now
from rlgym.run_folder.records import Position, expect, fits
from rlgym.run_folder.tensor_file import link_equal, sha256_of, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from rlgym.learner import Section

SCHEMA = 1
STATE = "state.json"
MANIFEST = "manifest.json"
TENSORS = ".safetensors"
SHARED = "shared"

STATE_BYTES = 1 << 30
STRANGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, AssertionError, RuntimeError)
"""Exceptions of code that expects another state."""


class Entry(TypedDict):
    """A file's entry in a checkpoint's manifest."""

    bytes: int
    sha256: str


class SharedEntry(Entry):
    section: str
    key: str
    name: str


class SharedFiles(TypedDict, total=False):
    shared: list[SharedEntry]


class Manifest(SharedFiles):
    schema: int
    files: dict[str, Entry]


class State(TypedDict):
    sections: dict[str, dict[str, Any]]
    loop: dict[str, Any]


_SECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_FILE = re.compile(rf"({_SECTION.pattern}){re.escape(TENSORS)}|{re.escape(STATE)}")
_STEP = re.compile(r"step_(\d+)")
_WORK = re.compile(r"\.(staging|aside|pruned)-(step_\d+)-(\d+)")  # purpose, checkpoint, process


# ---- saving


def save(
    run_dir: Path, step: int, state: Mapping[str, Section], loop: Mapping[str, Any], info: Mapping[str, Any]
) -> Path:
    """Write checkpoints/step_<step>, replacing one of the same step; files with equal tensors are reused. An OSError
    leaves everything unchanged."""
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    _tidy(folder)
    target = folder / f"step_{step}"
    staging = folder / f".staging-{target.name}-{os.getpid()}"
    try:
        staging.mkdir()
        _write(staging, target, folder / SHARED, step, state, loop, info)
        _move_in(staging, target)
    except BaseException:
        _remove(staging)
        raise
    with suppress(OSError):  # the checkpoint is complete; the hint does not matter
        write_atomic(folder / "latest", f"{target.name}\n")
    return target


def _write(
    staging: Path,
    before: Path,
    shared: Path,
    step: int,
    state: Mapping[str, Section],
    loop: Mapping[str, Any],
    info: Mapping[str, Any],
) -> None:
    from torch import is_tensor

    plain: dict[str, dict[str, Any]] = {}
    names = []
    together: list[dict[str, Any]] = []
    for section, parts in state.items():
        _require_name(section)
        tensors = {key: part for key, part in parts.items() if is_tensor(part)}
        plain[section] = {k: part for k, part in parts.items() if k not in tensors and not isinstance(part, Shared)}
        if tensors:
            names.append(section + TENSORS)
            if not link_equal(before / names[-1], staging / names[-1], tensors):
                write_tensors(staging / names[-1], tensors)
        for key, part in parts.items():
            if isinstance(part, Shared):
                if part.file is None or not _has_size(shared / part.file.name, part.file.bytes):
                    part.file = _share(part.make(), f"{section}-{key}", staging, shared)
                together.append({"section": section, "key": key, **asdict(part.file)})
    content = {"step": step, "loop": dict(loop), "sections": plain}
    _require_json(content, STATE)
    write_synced(staging / STATE, json.dumps(content))
    written = [staging / name for name in (*names, STATE)]
    files = {file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size} for file in written}
    manifest = {"schema": SCHEMA, "step": step, "time": now(), "files": files, "info": dict(info)}
    if together:
        manifest[SHARED] = together
    write_synced(staging / MANIFEST, to_json(manifest))
    fsync_folder(staging)


def _share(tensors: Mapping[str, Tensor], name: str, staging: Path, shared: Path) -> SharedFile:
    """Write a shared file under a name with its content's hash, so that it never replaces a file in use."""
    _require_name(name)
    written = staging / (name + TENSORS)
    write_tensors(written, tensors)
    sha256 = sha256_of(written)
    file = SharedFile(f"{name}-{sha256[:16]}{TENSORS}", written.stat().st_size, sha256)
    if not shared.is_dir():
        shared.mkdir()
        fsync_folder(shared.parent)
    os.rename(written, shared / file.name)
    fsync_folder(shared)
    return file


def _require_name(name: str) -> None:
    if not _SECTION.fullmatch(name):
        raise ValueError(f"section {name!r}: letters, digits, '_' and '-' only")


def _require_json(value: Any, place: str) -> None:
    """Refuse values that JSON does not round-trip (tuples, non-string keys)."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{place}: key {key!r} is not text; a checkpoint could not restore it")
            _require_json(part, f"{place}.{key}")
    elif isinstance(value, list):
        for part in value:
            _require_json(part, f"{place}[]")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(f"{place}: {type(value).__name__} is no tensor and no JSON; a checkpoint could not restore it")


def _move_in(staging: Path, target: Path) -> None:
    """Rename a finished checkpoint into place. An existing one of the same step is moved aside first, and back on
    failure."""
    folder = target.parent
    aside = folder / f".aside-{target.name}-{os.getpid()}"
    replaces = target.exists()
    if replaces:
        os.rename(target, aside)
    try:
        os.rename(staging, target)
    except BaseException:
        if replaces:
            os.rename(aside, target)
        raise
    fsync_folder(folder)
    if replaces:
        _remove(aside)


# ---- loading


def verify(path: Path, without: Collection[str] = ()) -> None:
    """CheckpointError unless every file of the checkpoint, except the sections `without`, is byte for byte the one that
    was written. Shared files are verified when read."""
    for name, (size, sha256) in _files(path, without).items():
        _check_size(path / name, size)
        try:
            same = sha256_of(path / name) == sha256
        except OSError as error:
            raise CheckpointError(f"{path / name}: cannot be read ({error.strerror})") from None
        if not same:
            raise CheckpointError(f"{path / name}: altered, its SHA-256 is not the manifest's")


def load(path: Path, without: Collection[str] = ()) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Load (sections, loop) of a verified checkpoint, tensors on the CPU in memory of their own. The size of a `Shared`
    file is checked now, and it is read by its `make`. Files of the sections `without` are not opened."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify(path, without)
    try:
        content = expect(read_json(path / STATE, STATE_BYTES), State)
        state = {section: dict(parts) for section, parts in content["sections"].items() if section not in without}
        loop = dict(content["loop"])
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path / STATE}: not a checkpoint's state ({error})") from None
    for name in _files(path, without):
        if not name.endswith(TENSORS):
            continue
        try:
            tensors = load_file(path / name)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path / name}: not a safetensors file ({error})") from None
        # A copy: truncating a memory-mapped file would kill the process.
        state.setdefault(name.removesuffix(TENSORS), {}).update({key: t.clone() for key, t in tensors.items()})
    for section, key, file in _shared(path):
        if section not in without:
            _check_size(path.parent / SHARED / file.name, file.bytes)
            part = Shared(partial(_read_shared, path.parent / SHARED / file.name, file.sha256), file)
            state.setdefault(section, {})[key] = part
    return state, loop


def position(state: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """(step, update) of a saved learner; CheckpointError if its state lacks them."""
    found = state.get("progress", {})
    if not fits(found, Position) or min(found["step"], found["update"]) < 0:
        raise CheckpointError(f"{path}: its state does not say at which step it was saved")
    return found["step"], found["update"]


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Turn the exceptions of loading an incompatible state into a one-line CheckpointError."""
    try:
        yield
    except STRANGE as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise RequestError(f"{folder}: its checkpoint does not fit its config.yaml ({said}); changed?") from error


def _read_shared(file: Path, sha256: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{file}: altered, its SHA-256 is not the manifest's")
    try:
        return from_bytes(content)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error})") from None


def _manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        manifest = read_json(path / MANIFEST)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: incomplete, it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST}: cannot be read ({error})") from None
    schema = manifest.get("schema")
    if schema != SCHEMA:
        age = "a newer" if isinstance(schema, int) and schema > SCHEMA else "an older"
        raise CheckpointError(f"{path}: {age} schema ({schema}) than the {SCHEMA} that this version of rlgym reads")
    try:
        return cast(Manifest, expect(manifest, Manifest))
    except ValueError as error:
        raise CheckpointError(f"{path / MANIFEST}: {error}") from None


def _files(path: Path, without: Collection[str] = ()) -> dict[str, tuple[int, str]]:
    """File name -> (bytes, SHA-256) from the manifest, except the sections `without`."""
    files = {name: (entry["bytes"], entry["sha256"]) for name, entry in _manifest(path)["files"].items()}
    for name in files:
        if not _FILE.fullmatch(name):
            raise CheckpointError(f"{path / MANIFEST}: file name {name!r} refused")
    if STATE not in files:
        raise CheckpointError(f"{path / MANIFEST}: does not list {STATE}")
    return {name: entry for name, entry in files.items() if name.removesuffix(TENSORS) not in without}


def _shared(path: Path) -> list[tuple[str, str, SharedFile]]:
    """(section, key, file) of all shared tensors of the checkpoint."""
    found = [
        (e["section"], e["key"], SharedFile(e["name"], e["bytes"], e["sha256"]))
        for e in _manifest(path).get("shared", [])
    ]
    for _, _, file in found:
        if not _FILE.fullmatch(file.name):
            raise CheckpointError(f"{path / MANIFEST}: file name {file.name!r} refused")
    return found


def _check_size(file: Path, size: int) -> None:
    try:
        found = file.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    if found != size:
        raise CheckpointError(f"{file}: {found} bytes where the manifest has {size}")


def _has_size(file: Path, size: int) -> bool:
    try:
        _check_size(file, size)
    except CheckpointError:
        return False
    return True


# ---- choosing


def steps(run_dir: Path) -> list[int]:
    """Steps with a checkpoint folder, valid or not, in order."""
    folder = run_dir / "checkpoints"
    names = (_STEP.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else iter(())
    return sorted(int(name[1]) for name in names if name)


def newest(run_dir: Path, warn: Callable[[str], None], without: Collection[str] = ()) -> Path:
    """The latest valid checkpoint; `warn` is called for each damaged one that is skipped. The sections `without` and
    shared files are not checked."""
    folder = run_dir / "checkpoints"
    if folder.is_dir():
        with suppress(OSError):  # a read-only folder cannot be tidied
            _tidy(folder, remove=False)
    damaged: list[str] = []
    for step in reversed(steps(run_dir)):
        path = folder / f"step_{step}"
        try:
            verify(path, without)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for fault in damaged:
            warn(f"{fault}; going back to {path.name}")
        return path
    raise CheckpointError(f"{run_dir}: no valid checkpoint" + "".join(f"; {fault}" for fault in damaged))


def mark_best(run_dir: Path, step: int) -> None:
    write_atomic(run_dir / "checkpoints" / "best", f"step_{step}\n")


def best(run_dir: Path) -> Path | None:
    """The checkpoint marked best, if it exists and is complete except for its replay."""
    folder = run_dir / "checkpoints"
    try:
        name = read_bounded(folder / "best", 100).decode().strip()
    except (OSError, ValueError):
        return None
    return folder / name if _STEP.fullmatch(name) and _complete(folder / name, without=(REPLAY,)) else None


def prune(run_dir: Path, keep: int) -> None:
    """Delete all but the last `keep` complete checkpoints and the best, and unreferenced shared files. Call only after
    a successful save."""
    folder = run_dir / "checkpoints"
    found = [folder / f"step_{step}" for step in steps(run_dir)]
    kept = [path for path in found if _complete(path)][-keep:]
    if not kept:
        return
    marked = best(run_dir)
    for path in found:
        if path not in kept and path != marked:
            doomed = folder / f".pruned-{path.name}-{os.getpid()}"
            with suppress(OSError):
                os.rename(path, doomed)  # rename first: a step_N is never half deleted
            _remove(doomed)
    _prune_shared(folder)


def _prune_shared(folder: Path) -> None:
    if not (folder / SHARED).is_dir():
        return
    named = set()
    for path in folder.iterdir():
        if _STEP.fullmatch(path.name):
            with suppress(CheckpointError):  # damaged: nothing can resume from it
                named |= {file.name for _, _, file in _shared(path)}
    for file in (folder / SHARED).iterdir():
        if file.name not in named:
            with suppress(OSError):
                file.unlink()


def _complete(path: Path, without: Collection[str] = ()) -> bool:
    """Whether all files exist in full size; cheap, whereas `verify` reads every byte."""
    try:
        for name, (size, _) in _files(path, without).items():
            _check_size(path / name, size)
        for section, _, file in _shared(path):
            if section not in without:
                _check_size(path.parent / SHARED / file.name, file.bytes)
    except CheckpointError:
        return False
    return True


# ---- folders at work


def _tidy(folder: Path, remove: bool = True) -> None:
    """Clean up after dead processes: restore a checkpoint that was moved aside; with `remove`, delete half-written and
    outdated ones. Only a save removes, since a reader on another machine cannot tell whether a process is alive.
    """
    for path in list(folder.iterdir()):
        work = _WORK.fullmatch(path.name)
        if not work or (int(work[3]) != os.getpid() and alive(int(work[3]))):
            continue
        if work[1] == "aside" and not (folder / work[2]).exists():
            os.rename(path, folder / work[2])
        elif remove:
            _remove(path)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
