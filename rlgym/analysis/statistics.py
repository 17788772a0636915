"""Statistics of few runs (Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice", arXiv:2108.13264).

Pure functions on arrays of scores, higher being better. A score is one run's: its independent unit is the seed.
Aggregates take `scores [..., seeds, tasks]` and reduce the last two axes; leading axes are batches, such as the
bootstrap's. Comparisons of two agents take one array of seeds a task, since the two, and the tasks, may have different
numbers of them: `[seeds, tasks]` or a list of `[seeds]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float, float]
"""An estimate and the ends of its interval, nan without one."""
Statistic = Callable[[Array], Any]
"""`[..., seeds, tasks]` -> `[...]`."""

LEVEL = 0.95
REPETITIONS = 10_000
NUMBERS_AT_ONCE = 2_000_000
"""Numbers in one chunk of a bootstrap, which bounds memory to some tens of megabytes."""
LATTICE = 100_000
"""Grid points of the permutation test's statistic, if the numbers of seeds have no small common multiple."""


# ---- aggregates


def mean(scores: Array) -> Any:
    """The mean over all runs: the mean over tasks of their means over seeds."""
    return scores.mean((-2, -1))


def median(scores: Array) -> Any:
    """The median over tasks of their means over seeds, as Atari's "median human-normalised score" (section 4)."""
    return np.median(scores.mean(-2), -1)


def seed_median(scores: Array) -> Any:
    """The mean over tasks of the median over seeds: the usual "median" for one task."""
    return np.median(scores, -2).mean(-1)


def iqm(scores: Array) -> Any:
    """Interquartile mean: the mean of the middle half of all runs of all tasks (section 4.3).

    A quarter of the runs, rounded down, is dropped at either end; of three runs or fewer that is none.
    """
    *rest, seeds, tasks = scores.shape
    ordered = np.sort(scores.reshape(*rest, seeds * tasks), -1)
    cut = seeds * tasks // 4
    return ordered[..., cut : seeds * tasks - cut].mean(-1)


def optimality_gap(scores: Array, target: float = 1.0) -> Any:
    """Optimality gap: the mean shortfall from `target`; scores above it count as the target (section 4.3)."""
    return target - np.minimum(scores, target).mean((-2, -1))


# ---- intervals


def interval(
    statistic: Statistic, scores: ArrayLike, repetitions: int = REPETITIONS, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """The stratified bootstrap's percentile interval of `statistic` of `scores [seeds, tasks]` (section 4.1).

    Seeds are resampled with replacement, independently per task. (nan, nan) for one seed.
    """
    scores = _two_axes(scores)
    if len(scores) < 2:
        return math.nan, math.nan
    drawn = [statistic(resampled) for resampled in _resampled(scores, repetitions, np.random.default_rng(seed))]
    return _percentiles(np.concatenate(drawn), level)


def iqm_band(
    values: Array, repetitions: int = 1_000, level: float = LEVEL, seed: int = 0
) -> tuple[Array, Array, Array]:
    """The seeds' IQM and the ends of its interval, each `[points]`, of curves `values [seeds, points]` on one task.

    Whole curves are drawn, so that one bootstrap serves every point. One seed: the ends are nan.
    """
    seeds, points = values.shape
    middle: Array = iqm(values.T[:, :, None])
    if seeds < 2:
        return middle, np.full(points, np.nan), np.full(points, np.nan)
    chosen = np.random.default_rng(seed).integers(0, seeds, (repetitions, seeds))
    drawn = iqm(values.T[:, chosen, None])  # [points, repetitions]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return middle, low, high


def _resampled(scores: Array, repetitions: int, rng: np.random.Generator) -> Iterator[Array]:
    """`[piece, seeds, tasks]`, pieces of `repetitions` in all."""
    seeds, tasks = scores.shape
    piece = max(1, NUMBERS_AT_ONCE // scores.size)
    for at in range(0, repetitions, piece):
        chosen = rng.integers(0, seeds, (min(piece, repetitions - at), seeds, tasks))
        yield scores[chosen, np.arange(tasks)]


def _percentiles(drawn: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---- one agent beside another


def probability_of_improvement(x: ArrayLike | Sequence[ArrayLike], y: ArrayLike | Sequence[ArrayLike]) -> float:
    """Probability that a run of `x` beats one of `y` on a random task; a tie counts as half a win (section 4.3).

    On one task it is the Mann-Whitney U statistic divided by the number of pairs.
    """
    return float(np.mean([wins.mean() for wins in _wins(x, y)]))


def improvement_interval(
    x: ArrayLike | Sequence[ArrayLike],
    y: ArrayLike | Sequence[ArrayLike],
    repetitions: int = REPETITIONS,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """The stratified bootstrap's interval of `probability_of_improvement`: tasks of either are resampled independently.
    (nan, nan) where some task has one seed. Degenerate where one side wins all pairs: see `permutation_p`.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(repetitions)
    tasks = _wins(x, y)
    for wins in tasks:
        n, m = wins.shape
        if min(n, m) < 2:
            return math.nan, math.nan
        # Only the counts of drawn seeds matter: the mean over the drawn pairs is a product with the counts.
        rows = rng.multinomial(n, np.full(n, 1 / n), repetitions) / n
        columns = rng.multinomial(m, np.full(m, 1 / m), repetitions) / m
        total += np.einsum("bi,ij,bj->b", rows, wins, columns, optimize=True)
    return _percentiles(total / len(tasks), level)


def permutation_p(x: ArrayLike | Sequence[ArrayLike], y: ArrayLike | Sequence[ArrayLike]) -> float:
    """Two-sided p of the exact permutation test of `probability_of_improvement`, stratified by task.

    Under the null hypothesis the assignment of runs to agents is random within each task: p is the share of all
    assignments whose statistic is at least as far from one half as the observed one. Exact with ties; on one task
    without any it is the exact Mann-Whitney test.
    """
    pairs = list(zip(_tasks(x), _tasks(y), strict=True))
    sizes = [2 * len(a) * len(b) for a, b in pairs]
    common = math.lcm(*sizes)
    # Twice U, an integer, times a weight that makes tasks equal; the lattice of all sums stays small.
    weights = [common // size if common <= LATTICE else max(1, round(LATTICE / size)) for size in sizes]
    chance = np.ones(1)
    seen, middle = 0, 0.0
    for (a, b), size, weight in zip(pairs, sizes, weights, strict=True):
        twice_u, shares = _null(np.concatenate([a, b]), len(a))
        spread = np.zeros(len(chance) + weight * size)
        for value, share in zip(twice_u, shares, strict=True):
            at = weight * int(value)
            spread[at : at + len(chance)] += share * chance
        chance = spread
        seen += weight * int(round(2 * _won(a, b).sum()))
        middle += weight * size / 2
    far = np.abs(np.arange(len(chance)) - middle) >= abs(seen - middle) - 0.25
    return float(min(1.0, chance[far].sum()))


def least_p(seeds: Sequence[tuple[int, int]]) -> float:
    """The smallest p of `permutation_p` with `(n, m)` seeds per task, reached if one agent wins every pair."""
    return min(1.0, 2 / math.prod(math.comb(n + m, n) for n, m in seeds))


def seeds_needed(tasks: int, level: float = LEVEL, comparisons: int = 1) -> int:
    """The smallest number of seeds per agent on each of `tasks` that can detect a difference at `level`."""
    seeds = 1
    while least_p([(seeds, seeds)] * tasks) * comparisons > 1 - level:
        seeds += 1
    return seeds


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons, controlling the family-wise error rate.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted = [1.0] * len(ps)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def _null(pooled: Array, n: int) -> tuple[NDArray[np.int64], Array]:
    """Distribution of twice U for `n` runs chosen at random from `pooled`: values and probabilities."""
    below = (pooled[:, None] > pooled).sum(1)
    equal = (pooled[:, None] == pooled).sum(1)
    ranks = 2 * below + equal + 1  # twice the mid-rank
    ways = np.zeros((n + 1, int(np.sort(ranks)[-n:].sum()) + 1))  # [chosen, twice the sum of ranks]
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] = ways[1:, rank:] + ways[:-1, : ways.shape[1] - rank]
    (sums,) = np.nonzero(ways[n])
    return sums - n * (n + 1), ways[n, sums] / ways[n].sum()


def _won(x: Array, y: Array) -> Array:
    """`[x's seeds, y's seeds]`: 1 where x is better, 1/2 where they are equal."""
    won: Array = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return won


def _wins(x: ArrayLike | Sequence[ArrayLike], y: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
    return [_won(a, b) for a, b in zip(_tasks(x), _tasks(y), strict=True)]


def _tasks(scores: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
    """Split `[seeds, tasks]`, or a list of `[seeds]`, into one array per task."""
    if isinstance(scores, np.ndarray):
        return list(_two_axes(scores).T)
    parts: Sequence[ArrayLike] = scores  # type: ignore[assignment]
    return [np.asarray(part, np.float64) for part in parts]


def _two_axes(scores: ArrayLike) -> Array:
    array = np.asarray(scores, np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"scores must be finite numbers [seeds, tasks], not of shape {array.shape}")
    return array
