"""The base of all learners, from PPO on CartPole to a language model trained by GRPO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
    from torch.nn import Module

type_json = (
    Any  # anything `json` round-trips exactly: None, bool, int of any size, float, str, list, dict with str keys
)

Metrics = dict[str, "float | Tensor"]
"""Tag -> a number or a 0-d tensor, possibly still on the device."""

Unit = Literal["steps", "moves", "tokens"]
Monitor = tuple[str, Literal["max", "min"]]

Section = Mapping[str, "Tensor | type_json"]
"""A named part of a checkpoint: tensors go to `<section>.safetensors`, `Shared` ones to a file shared by several
checkpoints, everything else to `state.json`."""

REPLAY = "replay"
"""Name of the section with past experience: large, not needed to use a finished model, and optional on resume."""

NON_FINITE = "train/non_finite"
"""Metric of an update: the number of optimiser steps skipped for a non-finite loss or gradient."""


@dataclass
class Shared:
    """Tensors of a section that never change. Saving calls `make` unless `file` exists already, and sets `file`. In a
    loaded section `make` reads the file; CheckpointError unless it is byte for byte the one that was written.
    """

    make: Callable[[], Mapping[str, Tensor]]
    file: SharedFile | None = None


@dataclass(frozen=True)
class SharedFile:
    """A file in checkpoints/shared."""

    name: str
    bytes: int
    sha256: str


@dataclass
class Progress:
    """Training progress. `step` counts environment steps, moves or tokens; `update` counts calls of `update()`."""

    step: int = 0
    update: int = 0


@dataclass
class Evaluation:
    """Result of an evaluation: `metrics` by tag, and the underlying `records` (JSON), such as every episode's
    return."""

    metrics: dict[str, float]
    records: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, Callable[[Path], tuple[np.ndarray, int]]] = field(default_factory=dict)
    """Tag -> function that records a video to the given file and returns frames [time, height, width, 3] uint8 and
    their rate."""
    texts: dict[str, str] = field(default_factory=dict)
    """Tag -> Markdown for TensorBoard, such as samples."""
    embeddings: dict[str, tuple[np.ndarray, list[str]]] = field(default_factory=dict)
    """Tag -> vectors [rows, width] and a label for each row, for TensorBoard's projector."""
    figures: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    """Tag -> function that returns a PNG; the latest of a tag is in plots/, all are in TensorBoard."""
    lines: list[str] = field(default_factory=list)
    """Summary lines; those of the last evaluation are printed at the end of the run."""


class Learner(ABC):
    """The base of all learners: `update()` and `evaluate()` are its own, and its state is saved and loaded exactly.

    Loop, checkpoints and displays use only this interface.
    """

    unit: Unit = "steps"
    """What `progress.step` counts."""
    monitor: Monitor
    """The evaluation metric for "best" and early stopping, and which direction is better."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.progress = Progress()
        self.notices: list[str] = []
        """Notices for the user; the loop shows and clears them."""
        self.facts: dict[str, Any] = {}
        """Further entries of a new run's manifest: `data`, the fingerprint and size of a corpus."""
        self.arithmetic: tuple[float, float] | None = None
        """(FLOP per step, move or token; the device's measured FLOP/s), where utilisation is meaningful."""
        exact = "exact, with the recorded thread count"
        self.exactness = {"arithmetic": exact if device.type == "cpu" else "to rounding: GPUs add in any order"}
        """What a resume restores exactly and what not, for the manifest: part -> description. Final once `state_dict`
        was called."""

    def write_run_files(self, folder: Path) -> dict[str, str]:
        """Called once for a new run: write its files other than checkpoints (a tokenizer, a data card). Returns texts
        for TensorBoard by tag."""
        return {}

    @abstractmethod
    def update(self) -> Metrics:
        """Gather a batch of experience or data and take the gradient steps. Advances `progress`."""

    @abstractmethod
    def evaluate(self) -> Evaluation:
        """Evaluate the current model in separate environments, with separate generators; does not affect training."""

    @abstractmethod
    def histograms(self) -> dict[str, Tensor]:
        """Parameters and latest gradients by name, for TensorBoard; called at evaluations, off the hot path."""

    @abstractmethod
    def state_dict(self) -> dict[str, Section]:
        """The state needed for exact continuation, in named sections: model, optimizer, rng, environment, ..."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Section]) -> None: ...

    def progress_state(self) -> dict[str, type_json]:
        """The common entries of a checkpoint's section "progress"."""
        return {"step": self.progress.step, "update": self.progress.update}

    def load_progress(self, state: Mapping[str, Section]) -> Section:
        """Restore `progress` from a checkpoint, and return its section, which may have more entries."""
        section = state["progress"]
        self.progress.step, self.progress.update = cast(int, section["step"]), cast(int, section["update"])
        return section

    def close(self) -> None:  # noqa: B027  nothing to release is a fine default
        """Release workers and files."""


def weights_and_gradients(module: Module, prefix: str = "") -> dict[str, Tensor]:
    """Tensors for histograms: `parameters/...` and, if present, `gradients/...`."""
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        found[f"parameters/{prefix}{name}"] = parameter.detach()
        if parameter.grad is not None:
            found[f"gradients/{prefix}{name}"] = parameter.grad
    return found
