"""Regression: predicts a number for each text, by squared error on standardised targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from rlgym.common.atomic_io import read_json, to_json, write_atomic
from rlgym.errors import RequestError
from rlgym.learner import Evaluation
from rlgym.run_folder.folder import Run
from rlgym.run_folder.records import expect
from rlgym.ssl.finetune import baselines, examples, figures, library, measures
from rlgym.ssl.finetune.labelled import Labelled
from rlgym.ssl.finetune.labeller import Regressor, headed_parts
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig

SCALE = "target.json"
"""File in the run folder with mean and deviation of the training targets."""


class Regression(Labelled):
    monitor = ("validation/rmse", "min")
    target_key = "target"
    target_names = ("target", "score", "rating", "value", "y", "label")
    read_target = staticmethod(examples.as_number)
    fits = staticmethod(examples.looks_like_numbers)
    outputs = 1

    @staticmethod
    def default_table() -> tuple[examples.Table, str]:
        return library.complexities(), "branches"

    def read_targets(self, values: list[float], rows: list[Any]) -> np.ndarray:
        return np.array(values)

    def check_split(self) -> None:
        """Set the scale; a resumed run keeps its own."""
        if self.run:
            self.mean, self.std = read_scale(self.run)
            return
        targets = self.targets[self.train]
        self.mean, self.std = float(targets.mean()), float(targets.std())
        if self.std == 0:
            raise RequestError(
                f"method.target={self.config.method.target}: every training example has {self.mean:g}; at "
                "least two different values are needed"
            )

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = ((part["targets"] - self.mean) / self.std).float()
        off = self.logits(part).squeeze(1) - wanted
        return (off**2).sum(), {}

    def evaluate(self) -> Evaluation:
        outputs, targets = self.predict_rows(self.held.tolist()).squeeze(1).double().numpy(), self.targets[self.held]
        predicted = outputs * self.std + self.mean
        metrics = {f"validation/{name}": value for name, value in measures.errors(targets, predicted).items()}
        metrics["validation/loss"] = float(((outputs - (targets - self.mean) / self.std) ** 2).mean())
        compared, lines = self.compare(targets, predicted)
        predictions = [
            {"row": self.where[i], "target": float(targets[at]), "predicted": float(predicted[at])}
            for at, i in enumerate(self.held)
        ]
        records = {"examples": len(targets), "baselines": compared, "predictions": predictions}
        drawn: dict[str, Callable[[], bytes]] = {
            "validation/predictions": lambda: figures.scatter(targets, predicted, self.config.method.target)
        }
        return Evaluation(metrics, records, figures=drawn, lines=lines)

    def fit_baselines(self) -> dict[str, np.ndarray]:
        texts = [self.texts[i] for i in self.train], [self.texts[i] for i in self.held]
        return baselines.numbers(texts[0], self.targets[self.train], texts[1])

    def compare(self, targets: np.ndarray, predicted: np.ndarray) -> tuple[dict[str, Any], list[str]]:
        """({baseline: its errors, and the network's change of the mean absolute error with its interval}, summary
        lines)"""
        off = np.abs(predicted - targets)
        found: dict[str, Any] = {}
        lines = [f"mean absolute error {off.mean():.4g} on {len(targets):,} held-out texts"]
        for name, guess in self.baselines().items():
            other = np.abs(guess - targets)
            low, high = measures.interval(
                measures.mean_difference(off, other), self.groups[self.held], self.config.seed
            )
            difference = {"mae_difference": float(off.mean() - other.mean()), "low": low, "high": high}
            found[name] = measures.errors(targets, guess) | difference
            shown = f"{name} ({other.mean():.4g})"
            lines.append(baselines.verdict(shown, off.mean(), other.mean(), low, high, "in mean error", False))
        return found, lines if found else []

    def write_run_files(self, folder: Path) -> dict[str, str]:
        write_atomic(folder / SCALE, to_json({"mean": self.mean, "std": self.std}))
        return super().write_run_files(folder)

    @staticmethod
    def load(config: FinetuneConfig, state: Mapping[str, Any], device: torch.device, folder: Path) -> Regressor:
        """The regressor of the finished run in `folder`."""
        mean, std = read_scale(folder)
        return Regressor(*headed_parts(config, state, device, folder, 1, config.method.pooling), mean, std)


class Scale(TypedDict):
    mean: float
    std: float


def read_scale(folder: Path) -> tuple[float, float]:
    """(mean, deviation) of a run's targets in training."""
    try:
        known = expect(read_json(folder / SCALE), Scale)
        if not (math.isfinite(known["mean"]) and 0 < known["std"] < math.inf):
            raise ValueError("mean and std must be finite, std above 0")
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder / SCALE} cannot be read ({error}): it holds the scale of the targets") from error
    Run(folder).check_files(SCALE)
    return float(known["mean"]), float(known["std"])
