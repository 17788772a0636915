"""Schedules: hyper-parameters as functions of the spent share of the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlgym.config.schema import RootConfig


def factor(
    schedule: str, step: float, total: float, warmup: float = 0.0, decay: float = 1.0, minimum: float = 0.0
) -> float:
    """Share of the peak at `step` of `total` (in tokens, or whatever the budget counts).

    Up from 0 along a line over the share `warmup` of the budget; then

    - cosine: down to `minimum` along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983);
    - wsd: 1 until the last share `decay` of the budget, then down to `minimum` as 1 - sqrt, better there than a line
      (Haegele et al. 2024, arXiv:2405.18392);
    - linear: down to `minimum` along a line;
    - constant: 1.

    Constant after `total`. Called with the step at an update's end, so that the first update has a non-zero rate.
    """
    rise = warmup * total
    if step < rise:
        return step / rise
    if schedule == "constant":
        return 1.0
    begin = max(rise, total - decay * total) if schedule == "wsd" else rise
    done = min(max((step - begin) / (total - begin), 0.0), 1.0)
    shape = {"cosine": (1 + math.cos(math.pi * done)) / 2, "wsd": 1 - math.sqrt(done), "linear": 1 - done}
    return minimum + (1 - minimum) * shape[schedule]


def scheduled(config: RootConfig) -> Iterator[tuple[str, float, bool]]:
    """For each scheduled key: the key, the step at which its schedule ends, and whether that leaves a learning rate of
    0."""
    total = config.schedule_budget
    agent, optimizer = getattr(config, "agent", None), getattr(config, "optimizer", None)
    for name in () if agent is None else (field.name for field in fields(agent)):
        if name.endswith("_schedule") and getattr(agent, name) != "constant":
            yield f"agent.{name}", total, name.startswith("learning_rate")
        elif name == "exploration_fraction" and not getattr(agent, "noisy", False):
            yield f"agent.{name}", getattr(agent, name) * total, False
    if optimizer is not None and optimizer.schedule != "constant":
        yield "optimizer.schedule", total, optimizer.min_learning_rate == 0


def cut_short(config: RootConfig, step: float) -> str:
    """Warning for a run that another budget ends at about this step; empty if its schedules are nearly finished by
    then."""
    keys = [key for key, end, _ in scheduled(config) if step < 0.9 * end]
    if not keys:
        return ""
    unit, verb = config.budget_key, "runs" if len(keys) == 1 else "run"
    return (
        f"{' and '.join(keys)} {verb} over {config.schedule_budget:,} {unit}, and the run ends at about {step:,.0f}: "
        f"{unit}={step:.0f} would let {'it' if len(keys) == 1 else 'them'} come to an end"
    )


def ended(config: RootConfig, step: int) -> str:
    """Warning for a resume from this step; empty if the learning rate is not 0 by then."""
    unit, total = config.budget_key, config.schedule_budget
    for key, end, to_zero in scheduled(config):
        if to_zero and end <= step:
            more = "" if config.minutes is None else f", or with the {unit} that the minutes will be enough for"
            return (
                f"{key} brought the learning rate to 0 at step {total:,}: nothing more is learned; resume with "
                f"schedule_{unit}={config.budget} to stretch it{more}"
            )
    return ""
