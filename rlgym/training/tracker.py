"""Writes a run's metrics to metrics.jsonl and TensorBoard, the latter with texts, histograms and images."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgym.common.atomic_io import Appended, parse_rows, write_atomic
from rlgym.training import tensorboard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Tracker:
    """Writes a run's metrics. Every call reaches the operating system before it returns, so that a killed run loses
    nothing. `resume_step`: records after that step are removed first, since those steps are repeated. `hparams` is
    called again after a resume; everything else up to that step is kept.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        self._run_dir = run_dir
        self._embeddings: dict[str, str] = {}
        self._videos_dir = run_dir / "videos"
        self._resume_step = resume_step
        metrics = run_dir / "metrics.jsonl"
        if resume_step is not None:
            _keep_rows(metrics, resume_step)
            for folder in (run_dir, self._videos_dir):
                _keep_events(folder, resume_step)
        self._rows = Appended(metrics)
        self._events = tensorboard.EventFile(run_dir, resume_step)
        self._videos: tensorboard.EventFile | None = None
        self._in_session = False

    def log(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Write one row of metrics.jsonl and one point of each curve; non-finite numbers are null in the row."""
        row: dict[str, Any] = {"step": step, "time": round(seconds, 3)}
        values: dict[str, float] = {}
        for tag, value in metrics.items():
            number = values[tag] = float(value)
            row[tag] = number if math.isfinite(number) else None
        try:
            self._rows.write(json.dumps(row).encode() + b"\n")
        finally:
            self._events.scalars(step, values)

    def text(self, tag: str, text: str, step: int) -> None:
        self._events.value(step, tensorboard.text(tag, text))

    def histogram(self, tag: str, values: NDArray[Any], step: int) -> None:
        summary = tensorboard.histogram(tag, values)
        if summary is not None:
            self._events.value(step, summary)

    def image(self, tag: str, png: bytes, step: int) -> None:
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # the PNG's IHDR
        self._events.value(step, tensorboard.image(tag, png, height, width))

    def video(self, tag: str, frames: NDArray[np.uint8], fps: float, step: int) -> None:
        """Write frames [time, height, width, 3] to a separate log, videos/, since TensorBoard loads every log as a
        whole."""
        if self._videos is None:
            self._videos = tensorboard.EventFile(self._videos_dir, self._resume_step)
        _, height, width, _ = frames.shape
        self._videos.value(step, tensorboard.image(tag, _gif(frames, fps), height, width))

    def embedding(self, tag: str, vectors: NDArray[np.float32], labels: list[str]) -> None:
        """Write vectors [rows, width] with a label per row for TensorBoard's projector, which shows the latest of a
        tag."""
        name = tag.replace("/", "_")
        folder = self._run_dir / "projector"
        folder.mkdir(exist_ok=True)
        write_atomic(folder / f"{name}.bytes", vectors.astype("<f4").tobytes())
        write_atomic(folder / f"{name}.tsv", "".join(f"{_cell(label)}\n" for label in labels))
        self._embeddings[tag] = (
            f'embeddings {{\n  tensor_name: "{tag}"\n  tensor_path: "projector/{name}.bytes"\n'
            f"  tensor_shape: {len(vectors)}\n  tensor_shape: {vectors.shape[1]}\n"
            f'  metadata_path: "projector/{name}.tsv"\n}}\n'
        )
        write_atomic(self._run_dir / "projector_config.pbtxt", "".join(self._embeddings.values()))

    def hparams(self, hparams: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """This run's row in TensorBoard's hparams table; `metrics` names tags written by `log`. Once per Tracker."""
        for summary in tensorboard.hparams_start(_flat(hparams), list(metrics)):
            self._events.value(0, summary)
        self._in_session = True

    def flush(self) -> None:
        """Fsync, so that logs survive a power cut."""
        self._rows.sync()
        self._events.sync()

    def close(self, success: bool = True) -> None:
        """Close. Never raises: a full disk must not change how a run ends."""
        if self._in_session:
            self._in_session = False
            with suppress(OSError):
                self._events.value(0, tensorboard.hparams_end(success))
        self._rows.close()
        self._events.close()
        if self._videos is not None:
            self._videos.close()


def _cell(label: str) -> str:
    """A label as one cell of a table: tabs and newlines escaped, a blank one made visible."""
    return label.encode("unicode_escape").decode("ascii") if not label.isprintable() or not label.strip() else label


def _keep_rows(path: Path, step: int) -> None:
    if path.exists():
        write_atomic(path, b"".join(line for line, row in parse_rows(path) if row["step"] <= step))


def _keep_events(folder: Path, step: int) -> None:
    """Replace each file atomically, so that a crash leaves no event twice."""
    for path in tensorboard.event_files(folder):
        kept = tensorboard.keep_until(path.read_bytes(), step)
        write_atomic(path, kept, ".events.tmp")  # TensorBoard reads every file with "tfevents" in its name


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _gif(frames: NDArray[np.uint8], fps: float) -> bytes:
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    # GIF delays are in hundredths of a second, and browsers slow down anything below two.
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=max(20, round(1000 / fps)), loop=0)
    return buffer.getvalue()
