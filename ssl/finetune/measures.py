"""Metrics of predictions, and intervals for differences between predictors, as pure functions on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""
RESAMPLES = 10_000
"""Resamples of a bootstrap interval."""
AT_ONCE = 2_000_000
"""Maximum counts that a bootstrap holds in memory."""


# ---- classes


def confusion(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """Confusion matrix `[classes, classes]`: true classes in rows, predicted ones in columns."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def per_class(table: Ints) -> dict[str, Floats]:
    """Precision, recall, f1 and support of each class of a confusion matrix `[classes, classes]`; 0 where undefined."""
    right, predicted, support = np.diag(table), table.sum(0), table.sum(1)
    return {
        "precision": _divided(right, predicted),
        "recall": _divided(right, support),
        "f1": _divided(2 * right, predicted + support),
        "support": support.astype(np.float64),
    }


def macro_f1(table: Ints) -> float:
    """Mean F1 over the classes that occur as label or prediction (as in scikit-learn)."""
    occurs = (table.sum(0) + table.sum(1)) > 0
    return float(per_class(table)["f1"][occurs].mean())


def _divided(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    found: Floats = np.divide(above, below, out=np.zeros(np.shape(below), np.float64), where=below > 0)
    return found


def reliability(shares: Floats, labels: Ints, bins: int = BINS) -> tuple[Floats, Floats, Ints]:
    """(confidence, accuracy, examples) in equal bins of the predicted class's probability, `[bins]`.

    `shares [examples, classes]`; NaN where an interval has no examples.
    """
    sure = shares.max(1)
    right = shares.argmax(1) == labels
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, sure, bins) / count
        accuracy = np.bincount(place, right, bins) / count
    return confidence, accuracy, count


def calibration_error(shares: Floats, labels: Ints, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3)."""
    confidence, accuracy, count = reliability(shares, labels, bins)
    filled = count > 0
    return float((np.abs(accuracy - confidence)[filled] * count[filled]).sum() / count.sum())


def roc(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats, float]:
    """(false positive rate, true positive rate, area) over all thresholds on `scores [examples]`, in descending order.
    Equal scores are one step; the area is NaN if there is only one class.
    """
    order = np.argsort(-scores, kind="stable")
    steps = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[steps]
    misses = steps + 1 - hits
    if not hits[-1] or not misses[-1]:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0]), float("nan")
    true = np.append(0.0, hits / hits[-1])
    false = np.append(0.0, misses / misses[-1])
    return false, true, float(np.trapezoid(true, false))


def mean_area(shares: Floats, labels: Ints) -> float:
    """Area under the ROC curve, of each class against the rest; the mean over the classes that occur."""
    areas = [roc(shares[:, c], labels == c)[2] for c in range(shares.shape[1])]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


# ---- numbers


def errors(targets: Floats, predicted: Floats) -> dict[str, float]:
    """mae, rmse, r2 (1 - squared error / variance) and pearson; the last two NaN where they are undefined."""
    off = predicted - targets
    variance = float(targets.var())
    spread = float(targets.std() * predicted.std())
    return {
        "mae": float(np.abs(off).mean()),
        "rmse": float(np.sqrt((off**2).mean())),
        "r2": 1 - float((off**2).mean()) / variance if variance else float("nan"),
        "pearson": float(((targets - targets.mean()) * (predicted - predicted.mean())).mean()) / spread
        if spread
        else float("nan"),
    }


# ---- how sure


def interval(
    difference: Callable[[Floats], Floats], groups: Ints, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of a difference between two predictors on the same examples: the paired percentile bootstrap.

    `difference` maps weights `[resamples, examples]` (counts of drawn examples) to differences `[resamples]`. Whole
    `groups [examples]` are resampled, as their members are not independent.
    """
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    random, found, done = np.random.default_rng(seed), [], 0
    while done < resamples:
        size = min(resamples - done, max(1, AT_ONCE // len(group)))
        weights = random.multinomial(count, np.full(count, 1 / count), size)[:, group]
        found.append(difference(weights.astype(np.float64)))
        done += size
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return float(low), float(high)


def mean_difference(first: Floats, second: Floats) -> Callable[[Floats], Floats]:
    """The difference of the weighted means of two scores per example, `[examples]`."""
    each = first - second

    def difference(weights: Floats) -> Floats:
        found: Floats = weights @ each / weights.sum(1)
        return found

    return difference
