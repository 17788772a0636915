"""The metric that a run is monitored by, and whether more or less of it is better, from its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

HEADLINES = ("rollout/ep_rew_mean", "eval/mean_reward", "validation/loss", "train/loss")
"""What stands for a run whose manifest names no metric: the first of these that it has."""
LOWER = ("loss", "bits_per_byte", "perplexity", "rmse", "mae", "nash_conv", "exact_error", "calibration_error")
"""How the tags of metrics end of which less is better."""


class Monitor(NamedTuple):
    tag: str
    lower: bool
    """Whether less is better."""


def monitor_of(manifest: Mapping[str, Any], best: Mapping[Any, Any], final: Mapping[Any, Any]) -> Monitor | None:
    """The metric of a run by its manifest. An older one does not say it: then by its summary, which holds the best
    value of that metric alone, or by what it has of HEADLINES, evaluations before anything else."""
    match manifest.get("monitor"):
        case [str(tag), "max" | "min" as better]:
            return Monitor(tag, better == "min")
    tags = [tag for tag in best if tag != "step"] or [
        tag for tag in HEADLINES if isinstance(final.get(tag), int | float)
    ]
    evaluations = [tag for tag in tags if str(tag).startswith(("eval/", "validation/"))]
    return next((Monitor(str(tag), lower_is_better(str(tag))) for tag in (*evaluations, *tags)), None)


def lower_is_better(tag: str) -> bool:
    """By its name, which is all that is known of a metric that no run is monitored by."""
    return tag.endswith(LOWER)
