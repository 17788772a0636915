"""Base class of the pretraining and fine-tuning learners: model, optimiser, and the gradient-accumulation step.

All randomness of an update (data, masks, dropout) is a function of the seed and the update's number, so that a resume
needs no generator states.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from rlgym.config import registry
from rlgym.config.device import seed
from rlgym.learner import NON_FINITE, Learner, Metrics, Monitor, Section, weights_and_gradients
from rlgym.training.load_module import load_module
from rlgym.training.schedules import factor

if TYPE_CHECKING:
    from rlgym.config.schema import TextConfig
    from rlgym.optim.ema import Ema
    from rlgym.ssl.data.tokenizer import Tokenizer

TOKENIZER = "tokenizer"
"""Folder in a run with its tokenizer, in transformers' format."""
FLOPS_A_THREAD = 1e9
"""FLOP of an update for which one more CPU thread pays off."""

Batch = dict[str, Tensor]


class TextLearner(Learner):
    """The base of learners of text; a subclass sets the annotated attributes and defines data and loss."""

    unit = "tokens"
    monitor: Monitor = ("validation/loss", "min")
    tokenizer: Tokenizer
    model: nn.Module
    optimizer: Any
    dtype: torch.dtype
    """Dtype of matrix products: bfloat16 or float32."""
    ema: Ema | None = None

    def __init__(self, config: TextConfig, device: torch.device) -> None:
        super().__init__(device)
        self.config: Any = config

    @classmethod
    def resumed(cls, config: TextConfig, folder: Path) -> Self:
        """The learner of a resumed run, with the run's tokenizer and model shape."""
        build: Any = cls
        learner: Self = build(config, folder)
        return learner

    @abstractmethod
    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of a part and summed metrics, all 0-d, to be divided by the part's "total"."""

    def build_optimizer(self) -> Any:
        knobs = self.config.optimizer
        return registry.resolve(registry.entry("optimizer", knobs.name).target)(self.model, knobs)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype == torch.bfloat16 else nullcontext()

    def seed_dropout(self) -> None:
        seed(self.device, (self.config.seed << 32) + self.progress.update)

    def part_loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A part's share of loss and metrics, divided by the total of the whole batch, so that parts with fewer labels
        weigh less."""
        summed, sums = self.loss(part)
        return summed / part["total"], {tag: value.detach() / part["total"] for tag, value in sums.items()}

    def gradient_step(self, parts: list[Batch], step: int) -> Metrics:
        """Take one optimiser step on the parts of a batch, with the learning rate scheduled at `step` tokens."""
        self.optimizer.zero()
        total = torch.zeros((), device=self.device)
        logged: dict[str, Tensor] = {}
        for part in parts:
            with self.autocast():
                loss, shares = self.part_loss(part)
            loss.backward()
            total = total + loss.detach()
            for tag, share in shares.items():
                logged[tag] = logged.get(tag, torch.zeros((), device=self.device)) + share
        scale = self.scale(step)
        norm, skipped = self.optimizer.step(scale, total)
        if self.ema is not None:
            self.ema.update(skipped)
        return {
            NON_FINITE: skipped,
            "train/loss": total,
            "train/grad_norm": norm,
            "train/learning_rate": scale * self.config.optimizer.learning_rate,
            **logged,
        }

    def scale(self, step: int) -> float:
        """Return the learning rate at `step` tokens as a fraction of the peak."""
        knobs, total = self.config.optimizer, self.config.schedule_budget
        return factor(knobs.schedule, step, total, knobs.warmup, knobs.decay, knobs.min_learning_rate)

    # ---- run folder and checkpoints

    def write_run_files(self, folder: Path) -> dict[str, str]:
        self.tokenizer.save(folder / TOKENIZER)
        return {}

    def histograms(self) -> dict[str, Tensor]:
        return weights_and_gradients(self.model)

    def state_dict(self) -> dict[str, Section]:
        state: dict[str, Section] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress_state(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        load_module(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.load_progress(state)


def threads_for(flops: float) -> int:
    """CPU threads for an update of `flops`."""
    return max(1, min(os.cpu_count() or 1, int(flops / FLOPS_A_THREAD)))
