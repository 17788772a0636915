"""Aggregates, intervals and tests of a few runs, against rliable 1.2.0, SciPy and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from rlgym.analysis import statistics
from rlgym.analysis.statistics import Array

Estimate = tuple[float, tuple[float, float]]
RLIABLE: dict[tuple[int, int, int], dict[str, Estimate]] = {
    (1, 5, 4): {
        "iqm": (0.55824869, (0.3652, 0.9193)),
        "median": (0.77910778, (0.4781, 1.0607)),
        "mean": (0.76369715, (0.5468, 0.9859)),
        "optimality_gap": (0.427406, (0.3109, 0.5456)),
        "improvement": (0.46, (0.27, 0.65)),
    },
    (2, 10, 6): {
        "iqm": (0.62519219, (0.5028, 0.7726)),
        "median": (0.77886119, (0.5923, 0.879)),
        "mean": (0.75227859, (0.6195, 0.8917)),
        "optimality_gap": (0.38945694, (0.3106, 0.4679)),
        "improvement": (0.61, (0.505, 0.7167)),
    },
    (3, 3, 2): {
        "iqm": (0.64897745, (0.504, 1.3832)),
        "median": (0.85463233, (0.5183, 1.3441)),
        "mean": (0.85463233, (0.5183, 1.3441)),
        "optimality_gap": (0.32579002, (0.1698, 0.4817)),
        "improvement": (0.83333333, (0.5, 1.0)),
    },
}
"""(seed, seeds, tasks) of `scores` below -> what rliable 1.2.0 with arch 7.2.0 says: 20,000 repetitions of its
stratified bootstrap, 5,000 for the improvement over `scores(seed + 100, ..., shift=-0.2)`."""


def scores(seed: int, seeds: int, tasks: int, shift: float = 0.0) -> Array:
    """The scores that RLIABLE was computed from; NumPy promises the legacy generator's stream for good."""
    drawn: Array = np.random.RandomState(seed).gamma(2.0, 0.4, (seeds, tasks)) + shift
    return drawn


# ---- aggregates


@pytest.mark.parametrize(("seeds", "tasks"), [(1, 1), (3, 1), (4, 1), (5, 1), (5, 3), (10, 4), (7, 9)])
def test_aggregates_against_their_definitions(seeds: int, tasks: int) -> None:
    x = scores(seeds + tasks, seeds, tasks)
    assert statistics.iqm(x) == pytest.approx(scipy.stats.trim_mean(x, 0.25, axis=None), rel=1e-12)
    assert statistics.mean(x) == pytest.approx(np.mean([x[:, t].mean() for t in range(tasks)]), rel=1e-12)
    assert statistics.median(x) == pytest.approx(np.median([x[:, t].mean() for t in range(tasks)]), rel=1e-12)
    assert statistics.seed_median(x) == pytest.approx(np.mean([np.median(x[:, t]) for t in range(tasks)]), rel=1e-12)
    gap = np.mean([max(0.0, 1 - value) for value in x.ravel()])
    assert statistics.optimality_gap(x) == pytest.approx(gap, rel=1e-12)
    many = np.stack([x, 2 * x, x[::-1]])
    for statistic in (statistics.iqm, statistics.mean, statistics.median, statistics.optimality_gap):
        assert statistic(many).tolist() == [float(statistic(part)) for part in many]


@pytest.mark.parametrize("case", RLIABLE, ids=str)
def test_estimates_and_intervals_are_rliables(case: tuple[int, int, int]) -> None:
    seed, seeds, tasks = case
    x, y = scores(seed, seeds, tasks), scores(seed + 100, seeds, tasks, -0.2)
    for name in ("iqm", "median", "mean", "optimality_gap"):
        value, ends = RLIABLE[case][name]
        statistic = getattr(statistics, name)
        assert statistic(x) == pytest.approx(value, abs=1e-7)
        assert statistics.interval(statistic, x, 20_000) == pytest.approx(ends, abs=0.02), name
    value, ends = RLIABLE[case]["improvement"]
    assert statistics.probability_of_improvement(x, y) == pytest.approx(value, abs=1e-7)
    assert statistics.improvement_interval(x, y, 20_000) == pytest.approx(ends, abs=0.02)


def test_iqm_ignores_an_outlier_that_the_mean_does_not() -> None:
    x = np.array([[1.0], [1.0], [1.0], [1000.0]])
    assert statistics.iqm(x) == 1 and statistics.mean(x) > 250


def test_scores_above_the_target_make_up_for_nothing() -> None:
    assert statistics.optimality_gap(np.array([[0.5, 3.0]])) == 0.25
    assert statistics.optimality_gap(np.array([[150.0, 300.0]]), target=200.0) == 25.0


# ---- intervals


def test_the_bootstrap_covers_every_resample_of_a_tiny_table() -> None:
    """Two seeds, two tasks: 16 equally likely resamples, each task's drawn on its own."""
    x = np.array([[0.0, 10.0], [1.0, 30.0]])
    every = [
        np.array([[x[a, 0], x[c, 1]], [x[b, 0], x[d, 1]]]).mean() for a, b, c, d in itertools.product((0, 1), repeat=4)
    ]
    drawn = np.concatenate([r.mean((1, 2)) for r in statistics._resampled(x, 40_000, np.random.default_rng(0))])
    values, counts = np.unique(drawn, return_counts=True)
    expected, weights = np.unique(every, return_counts=True)
    assert values.tolist() == expected.tolist()
    assert counts / 40_000 == pytest.approx(weights / 16, abs=0.01)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Means of 20 normal scores, 300 times over: a percentile bootstrap covers a little less than 95 %."""
    rng = np.random.default_rng(3)
    held = 0
    for repeat in range(300):
        low, high = statistics.interval(statistics.mean, rng.normal(0, 1, (20, 1)), 1_000, seed=repeat)
        held += low <= 0 <= high
    assert 0.88 <= held / 300 <= 0.98


def test_a_band_is_the_interval_at_every_step() -> None:
    curves = scores(4, 6, 3)
    middle, low, high = statistics.iqm_band(curves, 20_000)
    for point in range(3):
        column = curves[:, [point]]
        assert middle[point] == statistics.iqm(column)
        assert statistics.interval(statistics.iqm, column, 20_000) == pytest.approx((low[point], high[point]), abs=0.03)
    assert np.isnan(statistics.iqm_band(curves[:1])[1]).all()


def test_one_seed_has_no_interval() -> None:
    assert all(math.isnan(end) for end in statistics.interval(statistics.iqm, [[1.0, 2.0]]))
    assert all(math.isnan(end) for end in statistics.improvement_interval([[1.0]], [[2.0, 3.0]]))


def test_an_interval_is_the_same_every_time_and_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = scores(1, 5, 3)
    first = statistics.interval(statistics.iqm, x, 1_000)
    monkeypatch.setattr(statistics, "NUMBERS_AT_ONCE", 1_000)
    assert statistics.interval(statistics.iqm, x, 1_000) == first


@pytest.mark.parametrize("wrong", [[1.0, 2.0], [[]], [[math.nan]]])
def test_scores_that_are_none(wrong: list[object]) -> None:
    with pytest.raises(ValueError, match=r"\[seeds, tasks\]"):
        statistics.interval(statistics.mean, wrong)  # type: ignore[arg-type]


# ---- comparisons


def test_probability_of_improvement_is_mann_whitney_u_over_the_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (5, 3)).astype(float), rng.integers(0, 6, (7, 3)).astype(float)
    expected = np.mean([scipy.stats.mannwhitneyu(x[:, t], y[:, t]).statistic / 35 for t in range(3)])
    assert statistics.probability_of_improvement(x, y) == pytest.approx(expected, rel=1e-12)
    assert statistics.probability_of_improvement(y, x) == pytest.approx(1 - expected, rel=1e-12)
    assert statistics.probability_of_improvement([x[:, 0]], [y[:, 0]]) == np.mean(
        [(a > b) + 0.5 * (a == b) for a in x[:, 0] for b in y[:, 0]]
    )


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 5), (8, 8), (2, 9)])
def test_p_without_ties_is_the_exact_mann_whitney_test(n: int, m: int) -> None:
    rng = np.random.default_rng(n * m)
    x, y = rng.normal(0.8, 1, n), rng.normal(0, 1, m)
    expected = scipy.stats.mannwhitneyu(x, y, method="exact").pvalue
    assert statistics.permutation_p([x], [y]) == pytest.approx(expected, rel=1e-9)


def brute_p(x: list[list[float]], y: list[list[float]]) -> float:
    """Every division of every task's runs, one by one."""

    def u(a: list[float], b: list[float]) -> float:
        return sum((i > j) + 0.5 * (i == j) for i in a for j in b) / (len(a) * len(b))

    per_task = []
    for a, b in zip(x, y, strict=True):
        pooled = [*a, *b]
        values = []
        for chosen in itertools.combinations(range(len(pooled)), len(a)):
            rest = [pooled[i] for i in range(len(pooled)) if i not in chosen]
            values.append(u([pooled[i] for i in chosen], rest))
        per_task.append(values)
    seen = abs(np.mean([u(a, b) for a, b in zip(x, y, strict=True)]) - 0.5)
    far = [abs(np.mean(values) - 0.5) >= seen - 1e-9 for values in itertools.product(*per_task)]
    return float(np.mean(far))


@pytest.mark.parametrize("seed", range(6))
def test_p_with_ties_and_several_tasks_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [(3, 3), (2, 4), (3, 2)][: 1 + seed % 3]
    x = [rng.integers(1, 5, n).astype(float).tolist() for n, _ in sizes]
    y = [rng.integers(0, 4, m).astype(float).tolist() for _, m in sizes]
    assert statistics.permutation_p(x, y) == pytest.approx(brute_p(x, y), rel=1e-9)


def test_p_on_a_coarse_lattice_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    x = [rng.normal(0.5, 1, n) for n in (5, 4, 6)]
    y = [rng.normal(0, 1, m) for m in (7, 5, 3)]
    exact = statistics.permutation_p(x, y)
    monkeypatch.setattr(statistics, "LATTICE", 1_000)
    assert statistics.permutation_p(x, y) == pytest.approx(exact, abs=0.01)


def test_what_so_many_seeds_can_tell() -> None:
    apart = [[2.0, 3.0, 4.0]], [[0.0, 1.0, 1.5]]
    assert statistics.permutation_p(*apart) == pytest.approx(0.1) == statistics.least_p([(3, 3)])
    assert statistics.permutation_p(apart[0] * 2, apart[1] * 2) == pytest.approx(statistics.least_p([(3, 3)] * 2))
    assert statistics.permutation_p([[1.0, 1.0]], [[1.0, 1.0]]) == 1
    assert [statistics.seeds_needed(tasks) for tasks in (1, 2, 3, 6)] == [4, 3, 2, 1]
    assert statistics.seeds_needed(1, comparisons=6) == 5


def test_equal_agents_are_told_apart_five_times_in_a_hundred_at_most() -> None:
    rng = np.random.default_rng(11)
    told = [statistics.permutation_p(rng.normal(size=(5, 2)), rng.normal(size=(5, 2))) <= 0.05 for _ in range(400)]
    assert np.mean(told) <= 0.08


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0] and statistics.holm([]) == []
