"""A learner that counts, for tests of the loop, and the runs it trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.config.schema import TrainConfig
from rlgym.learner import NON_FINITE, Evaluation, Learner, Metrics, Section
from rlgym.run_folder import checkpoint
from rlgym.run_folder.folder import Run, create_run
from rlgym.training.train import drive


class Crash(BaseException):
    """The process dies here."""


class Counter(Learner):
    """A learner that counts: update u reports u. `scores` are its evaluations in turn (the last one again after)."""

    def __init__(self, scores: list[float] | None = None, direction: Literal["max", "min"] = "max", per: int = 10):
        super().__init__(torch.device("cpu"))
        self.monitor = ("eval/score", direction)
        self.scores, self.per = scores or [0.0], per
        self.evaluated: list[int] = []
        self.bad_update = self.crash_update = 0
        self.during: Callable[[], None] = lambda: None

    def write_run_files(self, folder: Path) -> dict[str, str]:
        (folder / "card.md").write_text("card")
        return {"data/card": "card"}

    def update(self) -> Metrics:
        self.progress.step += self.per
        self.progress.update += 1
        u = self.progress.update
        if u == self.crash_update:
            raise Crash
        self.during()
        metrics: Metrics = {"train/loss": torch.tensor(float(u)), "rollout/last": float(u)}
        return metrics | {NON_FINITE: torch.tensor(float(u == self.bad_update))}

    def evaluate(self) -> Evaluation:
        self.evaluated.append(self.progress.step)
        value = self.scores[min(len(self.evaluated), len(self.scores)) - 1]
        return Evaluation({"eval/score": value}, {"episodes": []})

    def histograms(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Section]:
        return {
            "model": {"w": torch.tensor([float(self.progress.update)])},
            "progress": {**self.progress_state(), "evaluated": self.evaluated},
        }

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        progress: Any = self.load_progress(state)
        self.evaluated = list(progress["evaluated"])


def configured(folder: Path, **changes: Any) -> TrainConfig:
    """`log__every=30` sets log.every. All cadences are off unless given."""
    config = TrainConfig(display="quiet", device="cpu", threads=1, compile="off", agent=PPOConfig())
    config.run.dir, config.env.id = str(folder / "run"), "None-v0"
    config.log.every = config.evaluate.every = config.checkpoint.every = 0
    config.checkpoint.keep = 1000
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        setattr(getattr(config, section) if section else config, name, value)
    return config


def go(learner: Counter, config: TrainConfig) -> Run:
    return drive(learner, config, create_run(config, ["rlgym"]))


def go_on(learner: Counter, config: TrainConfig) -> Run:
    """What `resume` does, with this learner."""
    folder = Path(config.run.dir)
    state, loop = checkpoint.load(checkpoint.newest(folder, print))
    learner.load_state_dict(state)
    return drive(learner, config, Run(folder), loop)


def rows(run: Run, with_rate: bool = False) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if with_rate or k not in ("time", "time/fps")} for row in found]


def steps_with(run: Run, tag: str) -> list[int]:
    return [row["step"] for row in rows(run) if tag in row]
