"""Figures of labelled evaluations as PNG: confusion matrix, ROC, reliability, predictions against targets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlgym.ssl.finetune import measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRITTEN = 20
"""Up to this many classes, confusion matrices show counts and curves have names."""


def confusion(table: measures.Ints, labels: Sequence[str]) -> bytes:
    """`table [classes, classes]`, rows of true classes, coloured by each row's share."""
    size = max(4.0, 1.6 + 0.42 * len(labels))
    figure, axes = _axes(size + 0.6, size)
    share = table / np.maximum(1, table.sum(1, keepdims=True))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    if len(labels) <= WRITTEN:
        for row, column in np.ndindex(*table.shape):
            if table[row, column]:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _png(figure)


def roc(shares: measures.Floats, y: measures.Ints, labels: Sequence[str]) -> bytes:
    """ROC curves: of the rarer of two classes, else of each class against the rest."""
    figure, axes = _axes(5.5, 5.0)
    rarer = [int(np.argmin(np.bincount(y, minlength=2)))]
    for c in rarer if len(labels) == 2 else range(len(labels)):
        false, true, area = measures.roc(shares[:, c], y == c)
        if not np.isnan(area):
            axes.plot(false, true, label=f"{labels[c]} ({area:.3f})")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    if len(labels) <= WRITTEN:
        axes.legend(title="area under the curve", fontsize=7, title_fontsize=7, loc="lower right")
    return _png(figure)


def reliability(shares: measures.Floats, y: measures.Ints) -> bytes:
    """Reliability diagram: accuracy by confidence; calibrated predictions are on the diagonal."""
    confidence, accuracy, count = measures.reliability(shares, y)
    figure, axes = _axes(5.5, 5.0)
    filled = count > 0
    width = 1 / len(count)
    axes.bar((np.arange(len(count))[filled] + 0.5) * width, accuracy[filled], width * 0.94, color="C0", alpha=0.7)
    axes.plot(confidence[filled], accuracy[filled], "o", color="C1", markersize=4)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for place, number in zip(np.flatnonzero(filled), count[filled], strict=True):
        axes.text((place + 0.5) * width, 0.01, str(number), ha="center", fontsize=6, rotation=90)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the likeliest class")
    axes.set_ylabel("share that is right")
    axes.set_title(f"calibration error {measures.calibration_error(shares, y):.4f}", fontsize=9)
    return _png(figure)


def scatter(targets: measures.Floats, predicted: measures.Floats, name: str) -> bytes:
    figure, axes = _axes(5.5, 5.0)
    axes.plot(targets, predicted, "o", markersize=3, alpha=0.5)
    ends = [float(min(targets.min(), predicted.min())), float(max(targets.max(), predicted.max()))]
    axes.plot(ends, ends, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"{name}, true")
    axes.set_ylabel(f"{name}, predicted")
    return _png(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    return buffer.getvalue()
