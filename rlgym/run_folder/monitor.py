"""A run's monitored metric and its direction, from the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

HEADLINES = ("rollout/ep_rew_mean", "eval/mean_reward", "validation/loss", "train/loss")
"""Candidates for runs whose manifest names no metric: the first that exists."""
LOWER = ("loss", "bits_per_byte", "perplexity", "rmse", "mae", "nash_conv", "exact_error", "calibration_error")
"""Suffixes of tags for which lower is better."""


class Monitor(NamedTuple):
    tag: str
    lower: bool
    """Whether lower is better."""


def monitor_of(manifest: Mapping[str, Any], best: Mapping[Any, Any], final: Mapping[Any, Any]) -> Monitor | None:
    """A run's metric by its manifest; in older ones without it, by the summary's best value, or by HEADLINES,
    evaluations first."""
    match manifest.get("monitor"):
        case [str(tag), "max" | "min" as better]:
            return Monitor(tag, better == "min")
    tags = [tag for tag in best if tag != "step"] or [
        tag for tag in HEADLINES if isinstance(final.get(tag), int | float)
    ]
    evaluations = [tag for tag in tags if str(tag).startswith(("eval/", "validation/"))]
    return next((Monitor(str(tag), lower_is_better(str(tag))) for tag in (*evaluations, *tags)), None)


def lower_is_better(tag: str) -> bool:
    """Derive the direction from the name, for a metric that no run monitors."""
    return tag.endswith(LOWER)
