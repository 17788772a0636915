"""Metrics against scikit-learn and by hand, and a bootstrap that covers."""

from __future__ import annotations

import numpy as np
import pytest

from rlgym.ssl.finetune import measures


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """(shares [200, 4], labels [200]); one class is never predicted."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(200, 4)) + np.array([0.5, 0, -9, 0.2])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return shares, random.integers(0, 4, 200)


def test_classes_as_scikit_learn_counts_them(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    shares, labels = drawn
    predicted = shares.argmax(1)
    table = measures.confusion(labels, predicted, 4)
    assert (table == reference.confusion_matrix(labels, predicted, labels=range(4))).all()
    each = measures.per_class(table)
    found = reference.precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    for name, theirs in zip(("precision", "recall", "f1", "support"), found, strict=True):
        assert each[name] == pytest.approx(theirs), name
    assert measures.macro_f1(table) == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    some = labels != 2  # a class that neither occurs nor is predicted does not count
    few = measures.confusion(labels[some], predicted[some], 4)
    assert measures.macro_f1(few) == pytest.approx(reference.f1_score(labels[some], predicted[some], average="macro"))
    area = reference.roc_auc_score(labels, shares, multi_class="ovr", average="macro")
    assert measures.mean_area(shares, labels) == pytest.approx(area)


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    scores = np.array([0.9, 0.4, 0.4, 0.3, 0.1, 0.4])
    positive = np.array([True, True, False, False, True, False])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert measures.roc(scores, positive)[2] == pytest.approx(np.mean(pairs))
    assert np.isnan(measures.roc(scores, np.ones(6, bool))[2])


def test_calibration_error_by_hand() -> None:
    """Ten at 0.9 of which 7 are right, ten at 0.6 of which 6 are: half of 0.2."""
    shares = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 7 + [1] * 3 + [0] * 6 + [1] * 4)
    assert measures.calibration_error(shares, labels) == pytest.approx(0.1)


def test_errors_of_numbers_as_scikit_learn_and_numpy_have_them() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(1)
    targets = random.normal(3, 2, 50)
    predicted = 0.6 * targets + random.normal(size=50)
    found = measures.errors(targets, predicted)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(targets, predicted))
    assert found["rmse"] == pytest.approx(reference.mean_squared_error(targets, predicted) ** 0.5)
    assert found["r2"] == pytest.approx(reference.r2_score(targets, predicted))
    assert found["pearson"] == pytest.approx(np.corrcoef(targets, predicted)[0, 1])


def test_the_interval_of_a_mean_is_the_normal_one_and_groups_widen_it() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(size=(2, 400))
    difference = measures.mean_difference(first, second)
    low, high = measures.interval(difference, np.arange(400), 0)
    each = first - second
    half = 1.96 * each.std() / 20
    assert low == pytest.approx(each.mean() - half, abs=0.02) and high == pytest.approx(each.mean() + half, abs=0.02)
    doubled = measures.mean_difference(np.repeat(first, 2), np.repeat(second, 2))
    wide = measures.interval(doubled, np.repeat(np.arange(400), 2), 0)
    assert wide[1] - wide[0] == pytest.approx(high - low, rel=0.05), "a duplicate is no evidence"
    narrow = measures.interval(doubled, np.arange(800), 0)
    assert narrow[1] - narrow[0] < 0.8 * (high - low)
