"""A run folder: everything needed to resume, evaluate, watch, share or repeat a run."""

from __future__ import annotations

import re
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from rlgym.common.atomic_io import (
    JSON_BYTES,
    read_bounded,
    read_json,
    read_rows,
    to_json,
    without_waiting,
    write_atomic,
)
from rlgym.common.suggest import nearest
from rlgym.config.io import to_yaml
from rlgym.config.schema import RootConfig
from rlgym.errors import RequestError, TrainingError
from rlgym.run_folder import manifest
from rlgym.run_folder.monitor import monitor_of
from rlgym.run_folder.records import Manifest, Summary, sound

MARKS = ("manifest.json", "config.yaml", "log.txt", "metrics.jsonl", "checkpoints")
"""Files that mark a run folder."""


LOG = "log.txt"
"""The log, append-only; the training process holds its lock on this file."""


class Run:
    """A run folder; files are re-read at each access."""

    def __init__(self, folder: Path, exit_code: int = 0) -> None:
        self.dir = folder
        self.exit_code = exit_code

    def __repr__(self) -> str:
        return f"Run({str(self.dir)!r})"

    @property
    def name(self) -> str:
        return self.dir.resolve().name

    @property
    def config_path(self) -> Path:
        return self.dir / "config.yaml"

    @property
    def manifest(self) -> dict[str, Any]:
        return sound(self._read("manifest.json"), Manifest)

    @property
    def summary(self) -> dict[str, Any]:
        return sound(self._read("summary.json"), Summary)

    def require(self) -> None:
        """TrainingError if the folder no longer exists."""
        if not self.dir.is_dir():
            raise self.gone()

    def gone(self) -> TrainingError:
        return TrainingError(f"the run folder {self.dir} is gone: deleted or renamed while training")

    def update_manifest(self, **fields: Any) -> None:
        write_atomic(self.dir / "manifest.json", to_json(self._read("manifest.json") | fields))

    def checksums(self, files: Iterable[Path]) -> dict[str, str]:
        """SHA-256 of each of the folder's `files`, by its path in the folder: `files` of the manifest."""
        return {path.relative_to(self.dir).as_posix(): sha256(path.read_bytes()).hexdigest() for path in sorted(files)}

    def check_files(self, name: str) -> None:
        """RequestError if a file of the run with this name, or in the folder with this name, was changed or removed
        since the start. Files without a hash in the manifest are not checked."""
        for own, recorded in self.manifest.get("files", {}).items():
            if own != name and not own.startswith(f"{name}/"):
                continue
            path = self.dir / own
            try:
                found = sha256(read_bounded(path, JSON_BYTES)).hexdigest()
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                raise RequestError(f"{path}: cannot be read ({why}); put the run's own back") from None
            if found != recorded:
                raise RequestError(
                    f"{path}: not the one that the run began with, its SHA-256 is another; put that one back"
                )

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomic(self.dir / "summary.json", to_json(summary))

    def keep_evaluation(self, result: dict[str, Any], label: str) -> None:
        """Write the results of `evaluate` to evaluations/; prints a line if that fails."""
        path = self.dir / "evaluations" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{label}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, to_json(result))
        except OSError as error:
            print(f"rlgym: {path} could not be written ({error.strerror})", file=sys.stderr)
        else:
            print(f"written to {path}")

    def log_line(self, text: str) -> None:
        """Append to log.txt. Never raises, so that a full disk does not hide the message."""
        line = f"{manifest.now()} {text.rstrip()}\n".encode(errors="backslashreplace")
        with suppress(OSError), open(self.dir / LOG, "ab", opener=without_waiting) as log:
            log.write(line)

    def log_traceback(self, error: BaseException) -> None:
        self.log_line("".join(traceback.format_exception(error)))

    def _read(self, file: str) -> dict[str, Any]:
        try:
            return read_json(self.dir / file)
        except (OSError, ValueError):
            return {}


def create_run(config: RootConfig, command: list[str], root: Path = Path("runs"), **facts: Any) -> Run:
    """Create a run folder with config.yaml and manifest.json, which includes `facts` (device, threads, resume, data,
    ...)."""
    label = config.run.name or f"{config.label}_s{config.seed}"
    folder = Path(config.run.dir).expanduser() if config.run.dir else None
    try:
        run = Run(_claim(folder) if folder else _new_folder(root, label))
    except OSError as error:
        place = f"run.dir={folder}" if folder else f"run folder {root}"
        raise RequestError(f"{place}: cannot be written ({error.strerror}); choose another with run.dir=PATH") from None
    try:
        write_atomic(run.config_path, to_yaml(config))
        write_atomic(run.dir / "manifest.json", to_json(manifest.facts(config, command) | facts))
    except BaseException as error:
        with suppress(OSError):
            for mark in MARKS:  # only files written here: run.dir may be a folder with other files
                (run.dir / mark).unlink(missing_ok=True)
            run.dir.rmdir()
        if isinstance(error, OSError):
            raise RequestError(f"run folder {run.dir}: cannot be written ({error.strerror})") from None
        raise
    return run


def _new_folder(root: Path, label: str) -> Path:
    """root/<time>_<label>, with _2, _3, ... for runs started in the same second."""
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{path_safe(label)}"
    root.mkdir(parents=True, exist_ok=True)
    count = 1
    while True:
        folder = root / (name if count == 1 else f"{name}_{count}")
        try:
            folder.mkdir()
        except FileExistsError:
            count += 1
        else:
            return _claim(folder)


def _claim(folder: Path) -> Path:
    """Claim the folder for this run: only one process can create log.txt."""
    if any((folder / mark).exists() for mark in MARKS):
        raise RequestError(f"run.dir={folder} already holds a run; resume it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / LOG).open("x").close()
    except FileExistsError:
        raise RequestError(f"run.dir={folder} already holds a run; resume it, or choose another folder") from None
    return folder


def path_safe(label: str) -> str:
    """ALE/Pong-v5 -> ALE-Pong-v5: letters, digits, '_', '.', '-' only, and no hidden or overlong name."""
    return re.sub(r"[^\w.-]+", "-", label).lstrip(".-")[:100] or "run"


# ---- finding runs


def is_run(folder: Path) -> bool:
    return (folder / "manifest.json").is_file() or (folder / "config.yaml").is_file()


def find_run(word: str, root: Path = Path("runs")) -> Run:
    """Find a run by its folder, `last`, or a short name under `root`: any unique part of a folder's name."""
    folders = [folder for folder in sorted(root.iterdir()) if is_run(folder)] if root.is_dir() else []
    if word == "last":
        if not folders:
            raise RequestError(f"last: no run under {root}/ yet; train one first")
        return max((Run(folder) for folder in folders), key=_started)
    direct = Path(word).expanduser()
    for folder in (direct, root / word):
        if word and is_run(folder):
            return Run(folder)
    names = [folder.name for folder in folders]
    part = word.lower()
    for matches in ([n for n in names if n.lower().startswith(part)], [n for n in names if part in n.lower()]):
        if len(matches) == 1:
            return Run(root / matches[0])
        if matches:
            shown = ", ".join(matches[:3]) + (", ..." if len(matches) > 3 else "")
            raise RequestError(f"{word!r} fits {len(matches)} runs: {shown}")
    if word and direct.is_dir():
        raise RequestError(f"{word} is not a run folder: it has no manifest.json or config.yaml")
    pieces = {piece: name for name in names for piece in (name, *name.split("_"))}
    near = nearest(word, [*pieces, "last"])
    hint = f"did you mean {pieces.get(near, near)}?" if near else "`rlgym runs` lists them"
    raise RequestError(f"no run {word!r} under {root}/; {hint}")


def list_runs(root: Path = Path("runs")) -> list[dict[str, Any]]:
    """One row per run, oldest first; None for values missing in a broken folder."""
    if not root.is_dir():
        return []
    runs = [Run(folder) for folder in root.iterdir() if is_run(folder)]
    return [row_of(run) for run in sorted(runs, key=_started)]


def _started(run: Run) -> tuple[float, str]:
    """Start of a run in seconds since the epoch; the folder's time if the manifest is broken."""
    try:
        return datetime.fromisoformat(run.manifest["start"]).timestamp(), run.name
    except (KeyError, TypeError, ValueError):
        return run.dir.stat().st_mtime, run.name


def row_of(run: Run) -> dict[str, Any]:
    """A run's row in a list of runs; computed from its metrics if it has no summary yet."""
    recorded, summary = run.manifest, run.summary
    status = recorded.get("status", "broken")
    if status == "running" and not _still_runs(recorded):
        status = "killed"
    if status in ("running", "killed") or not summary:  # a summary from before a resume would be stale
        summary = _so_far(read_rows(run.dir / "metrics.jsonl"), recorded)
    return {
        "name": run.name,
        "dir": str(run.dir),
        **{key: recorded.get(key) for key in ("agent", "env", "seed")},  # for text: objective and model, corpus
        "status": status,
        "steps": summary.get("steps"),
        **measured(recorded, summary),
        "wall_time_s": summary.get("wall_time_s"),
        "age_s": time.time() - _started(run)[0],
        "parent": _parent(recorded),
    }


def measured(recorded: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The run's main metric by its manifest and summary, whether lower is better, and its values."""
    best, final = _metrics(summary.get("best")), _metrics(summary.get("final"))
    tag, lower = monitor_of(recorded, best, final) or (None, False)
    return {"metric": tag, "lower": lower, "best": best.get(tag), "final": final.get(tag)}


def _parent(recorded: Mapping[str, Any]) -> str | None:
    """The parent run's name, or folder, of a fine-tuned run."""
    parent = recorded.get("parent")
    return str(parent.get("run") or parent.get("folder")) if isinstance(parent, dict) else None


def _still_runs(recorded: dict[str, Any]) -> bool:
    if recorded.get("host") != socket.gethostname():
        return True  # processes of other machines are not visible
    pid, start = recorded.get("pid"), recorded.get("pid_start")
    return isinstance(pid, int) and manifest.alive(pid, start if isinstance(start, float) else None)


def _metrics(part: Any) -> dict[str | None, Any]:
    return part if isinstance(part, dict) else {}


def _so_far(rows: list[dict[str, Any]], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A summary computed from the rows of a run that has not written one."""
    if not rows:
        return {}
    final = {tag: value for row in rows for tag, value in row.items() if value is not None}
    best: dict[str, Any] | None = None
    if monitor := monitor_of(recorded, {}, final):
        values = [row[monitor.tag] for row in rows if isinstance(row.get(monitor.tag), int | float)]
        best = {monitor.tag: (min if monitor.lower else max)(values)} if values else None
    return {"steps": rows[-1]["step"], "wall_time_s": rows[-1].get("time"), "final": final, "best": best}
