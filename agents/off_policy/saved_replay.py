"""Replays that are left out of checkpoints (agent.save_replay=false): what manifest and resume report about it."""

from __future__ import annotations

from typing import Any


def refill(knobs: Any) -> int:
    """Transitions that an empty replay gathers before learning goes on."""
    return int(max(knobs.learning_starts, knobs.batch_size))


def promise(saved: bool, count: int, unit: str = "transitions") -> str:
    """The manifest's promise about the replay on resume; an empty one delays learning by `count` units."""
    return "exact" if saved else f"left out by agent.save_replay=false: {_cost(count, unit)}"


def missing(count: int, unit: str = "transitions") -> str:
    """The notice of a resume from a checkpoint without replay."""
    return f"without the replay of the checkpoint: {_cost(count, unit)}"


def _cost(count: int, unit: str) -> str:
    return (
        f"a resume learns nothing until it has gathered {count:,} {unit} anew, then from these alone, and differs from "
        "a run that went on"
    )
