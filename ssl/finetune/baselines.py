"""Baselines: the most frequent class or the mean, and a linear model over character n-grams.

Character 2- to 5-grams weighted by TF-IDF with sublinear counts, with logistic or ridge regression by scikit-learn, on
the network's training examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlgym.ssl.finetune import measures

TFIDF = "TF-IDF"
MOST = 50_000
"""Maximum number of training examples, evenly spread; bounds time and memory."""
C = 30.0
"""Inverse penalty of logistic regression: 10 to 100 were equally good on SMS spam, 1 far worse."""
ALPHA = 0.3
"""Penalty of ridge regression."""


def classes(train: Sequence[str], labels: measures.Ints, held: Sequence[str]) -> dict[str, np.ndarray]:
    """Baseline -> predicted classes of the held-out texts, `[held]`."""
    from sklearn.linear_model import LogisticRegression

    common = int(np.bincount(labels).argmax())
    kept = _spread(len(train))
    features, tests = _features([train[i] for i in kept], held)
    model: Any = LogisticRegression(C=C, max_iter=1_000).fit(features, labels[kept])
    return {
        "the commonest class": np.full(len(held), common),
        f"{TFIDF} + logistic regression": model.predict(tests),
    }


def numbers(train: Sequence[str], targets: measures.Floats, held: Sequence[str]) -> dict[str, np.ndarray]:
    """Baseline -> predicted numbers of the held-out texts, `[held]`."""
    from sklearn.linear_model import Ridge

    kept = _spread(len(train))
    features, tests = _features([train[i] for i in kept], held)
    mean, spread = float(targets.mean()), float(targets.std()) or 1.0
    model: Any = Ridge(ALPHA, solver="lsqr").fit(features, (targets[kept] - mean) / spread)
    return {
        "the mean": np.full(len(held), mean),
        f"{TFIDF} + ridge regression": model.predict(tests) * spread + mean,
    }


def _features(train: Sequence[str], held: Sequence[str]) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    least = 2 if len(train) >= 500 else 1  # n-grams of a single text are useless, unless there are few texts
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=(2, 5), sublinear_tf=True, min_df=least, max_features=300_000, dtype=np.float32
    )
    return vectorizer.fit_transform(train), vectorizer.transform(held)


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(np.int64))


# ---- was the network worth it?


def verdict(name: str, found: float, other: float, low: float, high: float, unit: str, better_is_more: bool) -> str:
    """One line on the difference `found - other` with its interval. `unit`: points (for shares), or the targets'
    unit."""
    scale, form = (100, "+.2f") if unit == "points" else (1, "+.4g")
    gain = found - other
    if low <= 0 <= high:
        verdict = "no clear difference"
    else:
        verdict = "the network is better" if (gain > 0) == better_is_more else "the network is worse"
    numbers = f"{scale * gain:{form}} {unit} (95 % interval {scale * low:{form}} to {scale * high:{form}})"
    return f"against {name}: {numbers}; {verdict}"
