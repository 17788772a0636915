"""Schedules at their corners, and in between by other formulas."""

from __future__ import annotations

import math

import pytest

from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.agents.configs.q_learning import DQNConfig
from rlgym.config.schema import PretrainConfig, TrainConfig
from rlgym.ssl.config import AdamWOptimizer
from rlgym.training.schedules import cut_short, ended, factor

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


def test_what_a_run_that_ends_early_leaves_undone() -> None:
    ppo = TrainConfig(steps=200_000, agent=PPOConfig(learning_rate_schedule="linear", clip_range_schedule="linear"))
    assert cut_short(ppo, 72_704) == (
        "agent.learning_rate_schedule and agent.clip_range_schedule run over 200,000 steps, and the run ends at about "
        "72,704: steps=72704 would let them come to an end"
    )
    dqn = TrainConfig(steps=1_000, agent=DQNConfig(exploration_fraction=0.5))
    assert "agent.exploration_fraction runs over 1,000 steps" in cut_short(dqn, 400)
    assert cut_short(dqn, 500) == cut_short(ppo, 190_000) == ""
    text = PretrainConfig(tokens=1_000, optimizer=AdamWOptimizer(schedule="cosine"))
    assert cut_short(text, 500).startswith("optimizer.schedule runs over 1,000 tokens, and the run ends at about 500: ")


@pytest.mark.parametrize(("least", "said"), [(0.0, True), (0.1, False)])
def test_a_resume_that_would_learn_nothing_says_so(least: float, said: bool) -> None:
    optimizer = AdamWOptimizer(schedule="linear", min_learning_rate=least)
    config = PretrainConfig(tokens=2_000, schedule_tokens=1_000, optimizer=optimizer)
    assert ended(config, 999) == "" and bool(ended(config, 1_000)) == said
    if said:
        assert "0 at step 1,000: nothing more is learned; resume with schedule_tokens=2000" in ended(config, 1_000)
        config.minutes = 5.0
        assert ended(config, 1_000).endswith("or with the tokens that the minutes will be enough for")
