"""Ratings: closed forms, a grid, what must not matter, and coverage of the intervals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rlgym.games.ratings import ELO, PRIOR, Ladder


def test_three_of_four_points_are_191_elo_and_draws_are_halves() -> None:
    for wins, draws, losses in ((3_000_000, 0, 1_000_000), (2_000_000, 2_000_000, 0)):
        ladder = Ladder()
        ladder.add("a", "random", wins, draws, losses)
        assert ladder.ratings()["a"][0] == pytest.approx(400 * math.log10(3), abs=0.01)


def test_random_is_zero_without_an_interval_and_the_order_of_names_and_sides_does_not_matter() -> None:
    one, other = Ladder(), Ladder()
    one.add("a", "random", 6, 1, 3)
    one.add("b", "a", 5, 0, 5)
    one.add("random", "b", 2, 2, 4)
    other.add("b", "random", 2, 1, 1)
    other.add("a", "b", 5, 0, 5)
    other.add("random", "b", 1, 1, 2)
    other.add("random", "a", 3, 1, 6)
    assert one.ratings()["random"] == (0.0, 0.0, 0.0)
    assert set(one.ratings()) == {"a", "b", "random"}
    for name, rating in one.ratings().items():
        assert other.ratings()[name] == pytest.approx(rating, abs=1e-3)


def test_the_peak_and_the_width_agree_with_a_grid() -> None:
    """Ten wins, no loss: the prior alone keeps it finite."""
    ladder = Ladder()
    ladder.add("a", "random", 10, 0, 0)
    elo, low, high = ladder.ratings()["a"]
    x = np.linspace(-4, 12, 1_600_001)
    density = -10 * np.logaddexp(0, -x) - x**2 / (2 * PRIOR**2)
    peak = int(density.argmax())
    assert elo == pytest.approx(ELO * x[peak], abs=0.01)
    h = 1000
    curvature = -(density[peak + h] - 2 * density[peak] + density[peak - h]) / (h * (x[1] - x[0])) ** 2
    assert high - elo == pytest.approx(elo - low)
    assert high - elo == pytest.approx(1.96 * ELO / math.sqrt(curvature), rel=1e-3)


def test_a_chain_adds_up_and_its_far_end_is_less_certain() -> None:
    ladder = Ladder()
    for k, below in enumerate(("random", "0", "1", "2")):
        ladder.add(str(k), below, 7_500, 0, 2_500)
    ratings = [ladder.ratings()[str(k)] for k in range(4)]
    for k, (elo, _, _) in enumerate(ratings):
        assert elo == pytest.approx(190.85 * (k + 1), rel=0.003)
    assert np.all(np.diff([high - low for _, low, high in ratings]) > 0)


def test_one_sided_results_of_many_stay_finite() -> None:
    ladder = Ladder()
    for k in range(40):
        ladder.add(str(k), "random" if k == 0 else str(k - 1), 1000, 0, 0)
    elos = [elo for elo, _, _ in ladder.ratings().values()]
    assert np.all(np.isfinite(elos)) and elos[0] == max(elos[:2])


def test_without_random_ratings_lie_about_zero_and_nobody_is_nothing() -> None:
    ladder = Ladder()
    assert ladder.ratings() == {}
    ladder.add("a", "b", 5, 0, 1)
    (a, *_), (b, *_) = ladder.ratings().values()
    assert a == pytest.approx(-b) and a > 50


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = {"random": 0.0, "a": 150.0, "b": 300.0, "c": 250.0}
    held = total = 0
    for _ in range(150):
        ladder = Ladder()
        for one in truth:
            for other in truth:
                if one < other:
                    p = 1 / (1 + 10 ** ((truth[other] - truth[one]) / 400))
                    wins = int(rng.binomial(60, p))
                    ladder.add(one, other, wins, 0, 60 - wins)
        for name, (_, low, high) in ladder.ratings().items():
            if name != "random":
                held, total = held + (low <= truth[name] <= high), total + 1
    assert 0.92 < held / total < 0.98


def test_a_state_of_json_goes_on() -> None:
    ladder, again = Ladder(), Ladder()
    ladder.add("a", "random", 3, 2, 1)
    again.load_state_dict(json.loads(json.dumps(ladder.state_dict())))
    for each in (ladder, again):
        each.add("random", "a", 1, 1, 1)
    assert again.ratings() == ladder.ratings() and again.state_dict() == ladder.state_dict()
