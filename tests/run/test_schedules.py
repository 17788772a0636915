"""Schedules at their corners, and in between by other formulas."""

from __future__ import annotations

import math

import pytest

from rlgym.schedules import factor

ALL = ("cosine", "wsd", "linear", "constant")


def at(schedule: str, step: float, warmup: float = 0.1, decay: float = 0.25, minimum: float = 0.2) -> float:
    return factor(schedule, step, 1_000, warmup, decay, minimum)


@pytest.mark.parametrize("schedule", ALL)
def test_corners(schedule: str) -> None:
    assert at(schedule, 0) == 0
    assert at(schedule, 50) == pytest.approx(0.5)
    assert at(schedule, 100) == 1
    assert at(schedule, 0, warmup=0) == 1
    end = 1.0 if schedule == "constant" else 0.2
    assert at(schedule, 1_000) == pytest.approx(end) and at(schedule, 5_000) == pytest.approx(end)


@pytest.mark.parametrize("schedule", ALL)
def test_rises_then_never_again_and_without_jumps(schedule: str) -> None:
    values = [at(schedule, step / 10) for step in range(10_001)]
    assert all(a <= b for a, b in zip(values[:1_000], values[1:1_001], strict=True))
    assert all(a >= b for a, b in zip(values[1_000:], values[1_001:], strict=False))
    # 1 - sqrt falls steeply from its first step: sqrt(1 / 2500) of what there is
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) <= 0.8 * 0.0201


def test_in_between() -> None:
    assert at("cosine", 550) == pytest.approx(0.6)  # half way down
    assert at("cosine", 325) == pytest.approx(0.2 + 0.8 * math.cos(math.pi / 8) ** 2)
    assert at("linear", 550) == pytest.approx(0.6)
    assert at("wsd", 750) == 1 and at("wsd", 749.9) == 1
    assert at("wsd", 750 + 62.5) == pytest.approx(0.2 + 0.8 * 0.5)  # a quarter of the way: sqrt(1 / 4) of the height
    assert at("constant", 999) == 1


def test_a_decay_that_reaches_into_the_warmup_begins_after_it() -> None:
    assert at("wsd", 300, warmup=0.3, decay=1.0) == 1
    assert at("wsd", 299, warmup=0.3, decay=1.0) == pytest.approx(299 / 300)
    assert at("wsd", 301, warmup=0.3, decay=1.0) < 1


def test_units_do_not_matter() -> None:
    for schedule in ALL:
        assert factor(schedule, 640, 1_000, 0.1, 0.5, 0.1) == pytest.approx(
            factor(schedule, 640e6, 1e9, 0.1, 0.5, 0.1), rel=1e-12
        )
