"""Classification: a head over a pooled hidden state, trained by cross-entropy or focal loss (Lin et al. 2017,
arXiv:1708.02002, equation 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.common.atomic_io import read_json, to_json, write_atomic
from rlgym.errors import RequestError
from rlgym.learner import Evaluation
from rlgym.run_folder.folder import Run
from rlgym.run_folder.records import expect
from rlgym.ssl.finetune import baselines, examples, figures, library, measures
from rlgym.ssl.finetune.labelled import Labelled
from rlgym.ssl.finetune.labeller import Classifier, headed_parts
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig
    from rlgym.ssl.finetune.config import ClassificationMethod

LABELS = "labels.json"
"""File in the run folder with the classes, in the order of the head's outputs."""
MOST_CLASSES = 1_000


class Classification(Labelled):
    monitor = ("validation/accuracy", "max")
    target_key = "label"
    target_names = examples.LABEL_NAMES
    read_target = staticmethod(examples.as_label)
    fits = staticmethod(examples.looks_like_labels)

    @staticmethod
    def default_table() -> tuple[examples.Table, str]:
        return library.packages(), "package"

    def strata(self, values: list[str]) -> list[str]:
        return values

    def read_targets(self, values: list[str], rows: list[Any]) -> np.ndarray:
        """Numbers of the classes; a resumed run keeps its classes."""
        label = self.config.method.label
        self.labels = read_labels(self.run) if self.run else sorted(set(values))
        if len(self.labels) < 2:
            raise RequestError(
                f"method.label={label}: every row has {self.labels[0]!r}; at least two different values are needed"
            )
        if len(self.labels) > min(MOST_CLASSES, max(2, len(values) // 2)) and not self.run:
            raise RequestError(
                f"method.label={label}: {len(self.labels):,} different labels in {len(values):,} rows are no classes; "
                "name another column, or method=regression for numbers"
            )
        number = {examples.label_name(name): i for i, name in enumerate(self.labels)}
        for value, row in zip(values, rows, strict=True):
            if value not in number:
                shown = ", ".join(self.labels[:20]) + (", ..." if len(self.labels) > 20 else "")
                raise RequestError(f"{row.where}: {label} {value!r} is not one of the model's classes: {shown}")
        self.outputs = len(self.labels)
        return np.array([number[value] for value in values])

    def check_split(self) -> None:
        if self.all_held_out:
            return
        missing = set(range(len(self.labels))) - set(self.targets[self.train].tolist())
        if missing:
            names = ", ".join(repr(self.labels[i]) for i in sorted(missing))
            raise RequestError(
                f"method.label={self.config.method.label}: {names} is never seen in training; give more examples of it "
                "than one text, or leave it out"
            )

    # ---- an update

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        method: ClassificationMethod = self.config.method
        logits, labels = self.logits(part), part["targets"]
        each = F.cross_entropy(
            logits, labels, self.class_weights, reduction="none", label_smoothing=method.label_smoothing
        )
        if method.focal_gamma:
            right = logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
            each = each * (1 - right) ** method.focal_gamma
        return each.sum(), {"train/accuracy": (logits.argmax(-1) == labels).float().sum()}

    @property
    def class_weights(self) -> Tensor | None:
        """Class weights: the inverse of each class's share, with mean 1 over the training examples."""
        if not self.config.method.class_weights:
            return None
        counts = np.bincount(self.targets[self.train], minlength=self.outputs)
        return torch.tensor(len(self.train) / (self.outputs * counts), dtype=torch.float32, device=self.device)

    # ---- evaluating

    def evaluate(self) -> Evaluation:
        logits, y = self.predict_rows(self.held.tolist()), self.targets[self.held]
        shares = logits.double().softmax(-1).numpy()
        predicted = shares.argmax(1)
        table = measures.confusion(y, predicted, self.outputs)
        each = measures.per_class(table)
        metrics = {
            "validation/loss": float(F.cross_entropy(logits, torch.from_numpy(y))),
            "validation/accuracy": float((predicted == y).mean()),
            "validation/macro_f1": measures.macro_f1(table),
            "validation/calibration_error": measures.calibration_error(shares, y),
            "validation/auc": measures.mean_area(shares, y),
        }
        compared, lines = self.compare(y, predicted)
        classes = {
            label: {name: float(values[c]) for name, values in each.items()} for c, label in enumerate(self.labels)
        }
        predictions = [
            {
                "row": self.where[i],
                "label": self.labels[y[at]],
                "predicted": self.labels[predicted[at]],
                "probability": round(float(shares[at, predicted[at]]), 6),
            }
            for at, i in enumerate(self.held)
        ]
        records = {
            "examples": len(y),
            "labels": self.labels,
            "confusion": table.tolist(),
            "classes": classes,
            "baselines": compared,
            "predictions": predictions,
        }
        drawn: dict[str, Callable[[], bytes]] = {
            "validation/confusion": lambda: figures.confusion(table, self.labels),
            "validation/roc": lambda: figures.roc(shares, y, self.labels),
            "validation/reliability": lambda: figures.reliability(shares, y),
        }
        return Evaluation(metrics, records, texts={"classes": class_table(classes)}, figures=drawn, lines=lines)

    def fit_baselines(self) -> dict[str, np.ndarray]:
        texts = [self.texts[i] for i in self.train], [self.texts[i] for i in self.held]
        return baselines.classes(texts[0], self.targets[self.train], texts[1])

    def compare(self, y: np.ndarray, predicted: np.ndarray) -> tuple[dict[str, Any], list[str]]:
        """({baseline: its accuracy, macro-F1, and the network's gain with its interval}, summary lines)"""
        right = predicted == y
        found: dict[str, Any] = {}
        lines = [
            f"accuracy {right.mean():.2%}, macro-F1 "
            f"{measures.macro_f1(measures.confusion(y, predicted, self.outputs)):.4f} on {len(y):,} held-out texts"
        ]
        for name, guess in self.baselines().items():
            other = guess == y
            table = measures.confusion(y, guess, self.outputs)
            difference = measures.mean_difference(right.astype(float), other.astype(float))
            low, high = measures.interval(difference, self.groups[self.held], self.config.seed)
            gain = float(right.mean() - other.mean())
            found[name] = {
                "accuracy": float(other.mean()),
                "macro_f1": measures.macro_f1(table),
                "gain": gain,
                "gain_low": low,
                "gain_high": high,
            }
            shown = f"{name} ({other.mean():.2%}, macro-F1 {found[name]['macro_f1']:.4f})"
            lines.append(baselines.verdict(shown, right.mean(), other.mean(), low, high, "points", True))
        return found, lines if found else []

    def write_run_files(self, folder: Path) -> dict[str, str]:
        write_atomic(folder / LABELS, to_json({"labels": self.labels}))
        return super().write_run_files(folder)

    @staticmethod
    def load(config: FinetuneConfig, state: Mapping[str, Any], device: torch.device, folder: Path) -> Classifier:
        """The classifier of the finished run in `folder`."""
        labels = read_labels(folder)
        return Classifier(*headed_parts(config, state, device, folder, len(labels), config.method.pooling), labels)


class Labels(TypedDict):
    labels: list[str]


def read_labels(folder: Path) -> list[str]:
    """Names of a run's classes."""
    try:
        labels: list[str] = expect(read_json(folder / LABELS), Labels)["labels"]
        if len(set(labels)) < max(2, len(labels)):
            raise ValueError("its labels must be two or more, each once")
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder / LABELS} cannot be read ({error}): it names the classes") from error
    Run(folder).check_files(LABELS)
    return labels


def class_table(classes: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: precision, recall, F1 and examples of each class."""
    names: Sequence[str] = ("precision", "recall", "f1")
    lines = ["| class | precision | recall | F1 | examples |", "|---|---:|---:|---:|---:|"]
    for label, values in classes.items():
        cells = " | ".join(f"{values[name]:.4f}" for name in names)
        shown = label.replace("|", r"\|")
        lines.append(f"| {shown} | {cells} | {int(values['support']):,} |")
    return "\n".join(lines)
