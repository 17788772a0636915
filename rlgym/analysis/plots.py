"""A comparison's figures: learning curves with bands, and estimates with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlgym.analysis import statistics
from rlgym.analysis.scores import Row, ScoredRun, grouped
from rlgym.analysis.statistics import Array
from rlgym.training.curves import LABELS

POINTS = 50
"""Number of steps at which seeds are aggregated."""
COLUMNS = 3


def curves(scored: Sequence[ScoredRun], metric: str, path: Path) -> Path:
    """Plot one panel per environment: each agent's IQM over seeds at every step, with the 95 % bootstrap band."""
    envs = grouped([run for run in scored if run.curve[0]], lambda run: run.env)
    unit = "tokens" if scored[0].root == "pretrain" else "environment steps"
    columns = min(COLUMNS, len(envs))
    figure = _figure(5.5 * columns, 4.2 * math.ceil(len(envs) / columns))
    colors = _colors(scored)
    for index, (env, runs) in enumerate(envs.items(), 1):
        axes = figure.add_subplot(math.ceil(len(envs) / columns), columns, index)
        for agent, own in grouped(runs, lambda run: run.agent).items():
            steps, middle, low, high = band([run.curve for run in own])
            axes.plot(steps, middle, color=colors[agent], label=f"{agent} ({len(own)})")
            if not np.isnan(low).any():
                axes.fill_between(steps, low, high, color=colors[agent], alpha=0.2, linewidth=0)
        axes.set_title(env)
        axes.set_xlabel(unit)
        axes.set_ylabel(f"IQM of {LABELS.get(metric, metric)}")
        axes.grid(alpha=0.3)
        axes.legend(title="agent (seeds)")
    figure.savefig(path, dpi=110)
    return path


def band(curves: Sequence[tuple[list[int], list[float]]]) -> tuple[Array, Array, Array, Array]:
    """Steps `[points]` that every seed has reached, the IQM there and the ends of its interval; nan for one seed. A
    seed's curve is interpolated linearly between evaluations.
    """
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    first = min(first, last)
    steps = np.unique(np.linspace(first, last, POINTS))
    values = np.array([np.interp(steps, *curve) for curve in curves])  # [seeds, points]
    middle, low, high = statistics.iqm_band(values)
    return steps, middle, low, high


def summary(rows: Sequence[Row], path: Path) -> Path:
    """Plot one panel per estimate, one line per row: the point and its 95 % interval."""
    names = list(rows[0].values)
    figure = _figure(3.2 * len(names) + 1.5, 1.2 + 0.32 * len(rows))
    colors = _colors(rows)
    several = len({row.env for row in rows}) > 1
    labels = [f"{row.agent} on {row.env}" if several else row.agent for row in rows]
    shared: Any = None
    for index, name in enumerate(names, 1):
        axes = shared = figure.add_subplot(1, len(names), index, sharey=shared)
        for at, row in enumerate(rows):
            middle, low, high = row.values[name]
            if not math.isnan(low):
                axes.plot([low, high], [at, at], color=colors[row.agent], alpha=0.4, linewidth=6, solid_capstyle="butt")
            axes.plot([middle], [at], "|", color=colors[row.agent], markersize=12, markeredgewidth=2)
        axes.set_title(name)
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(labelleft=index == 1)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot: no global state, half the import time
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _colors(items: Sequence[ScoredRun] | Sequence[Row]) -> dict[str, str]:
    agents = dict.fromkeys(item.agent for item in items)
    return {agent: f"C{index % 10}" for index, agent in enumerate(sorted(agents))}
