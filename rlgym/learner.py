"""What the loop asks of anything that learns, from CartPole PPO to a language model under GRPO."""

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
"""Tag -> a number or a 0-d tensor that may still live on the device."""

Unit = Literal["steps", "moves", "tokens"]
Monitor = tuple[str, Literal["max", "min"]]

Section = Mapping[str, "Tensor | type_json"]
"""One named part of a checkpoint: tensors go to `<section>.safetensors`, `Shared` ones to a file that several
checkpoints name, everything else to `state.json`."""

REPLAY = "replay"
"""The section of past experience. Large, and nothing that uses a finished model reads it; a resume can do without."""

NON_FINITE = "train/non_finite"
"""Metric an update reports: how many of its optimiser steps were skipped for a non-finite loss or gradient."""


@dataclass
class Shared:
    """Tensors of a section that never change once they are there.

    Saving calls `make` unless `file` is there already, and sets `file`. In a section that was loaded, `make` reads the
    file; CheckpointError when it is not, byte for byte, the one that was written.
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
    """How far training is. `step` counts environment steps, moves or tokens; `update` counts calls of `update()`."""

    step: int = 0
    update: int = 0


@dataclass
class Evaluation:
    """What one evaluation found: `metrics` by tag, and the `records` (JSON) it rests on, as every episode's return."""

    metrics: dict[str, float]
    records: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, Callable[[Path], tuple[np.ndarray, int]]] = field(default_factory=dict)
    """Tag -> what films it: given the file to write, returns frames [time, height, width, 3] uint8 and their rate."""
    texts: dict[str, str] = field(default_factory=dict)
    """Tag -> Markdown for TensorBoard, such as samples."""
    embeddings: dict[str, tuple[np.ndarray, list[str]]] = field(default_factory=dict)
    """Tag -> vectors [rows, width] and a label for each row, for TensorBoard's projector."""
    figures: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    """Tag -> what draws it, as PNG; the latest of a tag is in plots/, all are in TensorBoard."""
    lines: list[str] = field(default_factory=list)
    """What it comes to, in words: of the last evaluation these are among the closing words."""


class Learner(ABC):
    """The base of all learners: `update()` and `evaluate()` are its own, and its state is saved and loaded exactly.

    Loop, checkpoints and displays know a learner by what stands here, and by nothing else.
    """

    unit: Unit = "steps"
    """What `progress.step` counts."""
    monitor: Monitor
    """Which evaluation metric "best" and early stopping look at, and which way is better."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.progress = Progress()
        self.notices: list[str] = []
        """Notices for the user; the loop shows and clears them."""
        self.facts: dict[str, Any] = {}
        """Further entries of a new run's manifest: `data`, the fingerprint and size of a corpus."""
        self.arithmetic: tuple[float, float] | None = None
        """(FLOP that one step, move or token takes, the device's measured FLOP/s), where utilisation means
        something."""
        exact = "exact, with the recorded thread count"
        self.exactness = {"arithmetic": exact if device.type == "cpu" else "to rounding: GPUs add in any order"}
        """What a resume restores exactly and what it cannot, in words, for the manifest: part -> promise. Final once
        `state_dict` was called."""

    def write_run_files(self, folder: Path) -> dict[str, str]:
        """Called once for a new run: write the files of its folder that are no checkpoints (a tokenizer, a data card).
        Returns texts for TensorBoard by tag."""
        return {}

    @abstractmethod
    def update(self) -> Metrics:
        """Gather a batch of experience or data and take the gradient steps. Advances `progress`."""

    @abstractmethod
    def evaluate(self) -> Evaluation:
        """Evaluate the current model in environments and with generators of its own; training is unaffected."""

    @abstractmethod
    def histograms(self) -> dict[str, Tensor]:
        """Parameters and latest gradients by name, for TensorBoard; called at evaluations, off the hot path."""

    @abstractmethod
    def state_dict(self) -> dict[str, Section]:
        """Everything the exact continuation needs, in named sections: model, optimizer, rng, environment, ..."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Section]) -> None: ...

    def progress_state(self) -> dict[str, type_json]:
        """The start of a checkpoint's section "progress"."""
        return {"step": self.progress.step, "update": self.progress.update}

    def load_progress(self, state: Mapping[str, Section]) -> Section:
        """Sets `progress` from a checkpoint, and returns its section, which may hold more."""
        section = state["progress"]
        self.progress.step, self.progress.update = cast(int, section["step"]), cast(int, section["update"])
        return section

    def close(self) -> None:  # noqa: B027  nothing to release is a fine default
        """Release workers and files."""


def weights_and_gradients(module: Module, prefix: str = "") -> dict[str, Tensor]:
    """For histograms: `parameters/...` and, where there are any, `gradients/...`."""
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        found[f"parameters/{prefix}{name}"] = parameter.detach()
        if parameter.grad is not None:
            found[f"gradients/{prefix}{name}"] = parameter.grad
    return found
