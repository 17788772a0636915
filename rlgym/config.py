"""The keys every training command understands, typed, with their bounds. Agents add their own under `agent.`.

A dataclass is the one source of a key's default, type, bounds and help text; the YAML files in `conf/` only choose
among and override them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def knob(
    default: Any,
    help: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its help line and the bounds that `rlgym.typed` checks."""
    metadata = {"help": help, "gt": gt, "ge": ge, "lt": lt, "le": le, "choices": choices}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RunConfig:
    dir: str = knob("", "folder of this run; empty: runs/<time>_<agent>_<env>_s<seed>")
    name: str = knob("", "replaces <agent>_<env>_s<seed> in the folder's name")


@dataclass
class LogConfig:
    every: int = knob(2_048, "steps between log points (0: none; never more often than each update)", ge=0)
    histograms: bool = knob(True, "parameter and gradient histograms in TensorBoard, at each evaluation")


@dataclass
class EvaluateConfig:
    every: int = knob(10_000, "steps between evaluations (0: only at the end)", ge=0)
    episodes: int = knob(20, "episodes of one evaluation", gt=0)
    video: bool = knob(False, "record an episode at each evaluation, into videos/ and TensorBoard")


@dataclass
class CheckpointConfig:
    every: int = knob(25_000, "steps between checkpoints (0: only at the end)", ge=0)
    keep: int = knob(3, "how many of the latest checkpoints are kept, besides the best", gt=0)


@dataclass
class StopConfig:
    at: float | None = knob(None, "stop once an evaluation reaches this value of the monitored metric")
    patience: int = knob(0, "stop after so many evaluations without a new best (0: never)", ge=0)


@dataclass
class EnvConfig:
    id: str = knob("", "any Gymnasium id, or module:Id; set by env=ID")
    num_envs: int = knob(8, "environments stepped in parallel", gt=0)
    backend: str = knob(
        "auto",
        "how they are stepped: native batched code, one process (sync), or worker processes (async)",
        choices=("auto", "native", "sync", "async"),
    )
    kwargs: dict[str, Any] = knob({}, "arguments of the environment's constructor: +env.kwargs.x=y")
    frame_stack: int = knob(1, "latest observations stacked into one", gt=0)
    normalize_observation: bool = knob(False, "scale observations by running mean and variance")
    normalize_reward: bool = knob(False, "scale rewards by the running deviation of the discounted return")
    check: bool = knob(True, "stop when an observation leaves its declared space")


@dataclass
class TrainConfig:
    """`python -m rlgym [train]`: learning from reward."""

    steps: int = knob(100_000, "budget in environment steps (in self-play: moves)", gt=0)
    updates: int | None = knob(None, "budget in updates", gt=0)
    minutes: float | None = knob(None, "budget in minutes of wall-clock time", gt=0)
    schedule_steps: int | None = knob(None, "steps over which schedules run; empty: the first budget in steps", gt=0)
    seed: int = knob(1, "seed of everything random", ge=0)
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps")
    compile: str = knob(
        "auto", "torch.compile of the update: auto only where the budget repays it", choices=("auto", "on", "off")
    )
    threads: int | None = knob(None, "CPU threads of torch; empty: chosen by the size of the work", gt=0)
    display: str = knob("auto", "progress on the terminal", choices=("auto", "rich", "plain", "quiet"))
    run: RunConfig = field(default_factory=RunConfig)
    log: LogConfig = field(default_factory=LogConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    agent: Any = knob(None, "the agent's own knobs, a dataclass that the registry names")
