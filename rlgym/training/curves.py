"""Plots a finished run's curves as PNG files, from metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgym.common.atomic_io import read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "rollout/ep_rew_mean": "return of one episode, while training",
    "eval/mean_reward": "return of one episode, evaluation",
    "validation/loss": "validation loss [nats per token]",
    "time/fps": "speed [steps/s]",
    "time/tokens_per_second": "speed [tokens/s]",
}
DEVIATION = {"eval/mean_reward": "eval/std_reward"}  # tag -> tag of its standard deviation

Curve = tuple[list[int], list[float]]


def curves(run_dir: Path) -> list[Path]:
    """Write plots/learning.png, losses.png and speed.png, where the run has data for them."""
    series = _series(read_rows(run_dir / "metrics.jsonl"))
    unit = "tokens" if "time/tokens_per_second" in series else "environment steps"
    learning: list[str] = [
        tag for tag in ("rollout/ep_rew_mean", "eval/mean_reward", "validation/loss") if tag in series
    ]
    losses = sorted(tag for tag in series if tag.startswith("train/") and tag.endswith("loss"))
    speed = [tag for tag in ("time/fps", "time/tokens_per_second") if tag in series]
    returns = [tag for tag in learning if tag != "validation/loss"]
    panels: dict[str, list[list[str]]] = {
        "learning": [group for group in (returns, learning[len(returns) :]) if group],
        "losses": [[tag] for tag in losses],
        "speed": [[tag] for tag in speed],
    }
    folder = run_dir / "plots"
    return [_figure(folder / f"{name}.png", groups, series, unit) for name, groups in panels.items() if groups]


def _series(rows: list[dict[str, Any]]) -> dict[str, Curve]:
    """Tag -> (steps, values), without non-finite values."""
    series: dict[str, Curve] = {}
    for row in rows:
        for tag, value in row.items():
            if tag not in ("step", "time") and isinstance(value, int | float):
                steps, values = series.setdefault(tag, ([], []))
                steps.append(row["step"])
                values.append(value)
    return series


def _figure(path: Path, panels: list[list[str]], series: dict[str, Curve], unit: str) -> Path:
    """Stack the panels vertically, each with its own scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot: no global state, half the import time
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 2.7 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for index, tags in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, index)
        for tag in tags:
            _draw(axes, tag, series)
        axes.set_ylabel(LABELS.get(tags[0], tags[0]) if len(tags) == 1 else "return of one episode")
        axes.set_xlabel(unit)
        axes.grid(alpha=0.3)
        if len(tags) > 1:
            axes.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _draw(axes: Axes, tag: str, series: dict[str, Curve]) -> None:
    steps, values = series[tag]
    marker = "o" if tag.startswith(("eval/", "validation/")) or len(steps) == 1 else None
    (line,) = axes.plot(steps, values, label=LABELS.get(tag, tag), marker=marker, markersize=4)
    spread_steps, spread = series.get(DEVIATION.get(tag, ""), ([], []))
    if spread_steps == steps:
        low = [value - std for value, std in zip(values, spread, strict=True)]
        high = [value + std for value, std in zip(values, spread, strict=True)]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
