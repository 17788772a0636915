"""The base of all fine-tuning methods: the starting model, the trained parameters, the optimiser step.

An update takes `batch_size` examples, adds up the gradients of its parts, divides by the weight of the whole batch, and
steps once. Examples, dropout and all randomness are functions of the seed and the update's number, so that a resume
needs no generator states.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rlgym.common.atomic_io import to_json, write_atomic
from rlgym.config.device import pick_device, resolve_auto
from rlgym.errors import RequestError
from rlgym.learner import Metrics
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.finetune.adapt import adapt
from rlgym.ssl.finetune.start import BACKBONE, Start, fresh, open_start, rebuild
from rlgym.ssl.learner import Batch, TextLearner, threads_for
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.build import learning_rate_for
from rlgym.ssl.models.precision import choose

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig

SHARE_OF_PRETRAINING = 0.25
"""Share of the pretraining step size for a model of this width, small enough to keep what was learned."""


class Finetuned(nn.Module):
    """A language model with an optional head."""

    def __init__(self, backbone: Backbone, head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        if head is not None:
            self.head = head

    def matrices(self) -> dict[str, tuple[int, ...]]:
        """The language model's matrices; see `Backbone.matrices`."""
        return {BACKBONE + name: rows for name, rows in self.backbone.matrices().items()}


class Finetuning(TextLearner):
    """The learner: `update()` is one optimiser step. A subclass defines data and loss."""

    config: FinetuneConfig
    model: Finetuned
    causal: ClassVar[bool | None] = None
    """Supported models: decoders only (True), encoders only (False), or both (None)."""
    rewarded: ClassVar[bool] = False
    """Whether the method learns from a reward."""

    def __init__(self, config: FinetuneConfig, run: Path | None = None) -> None:
        """`run`: the folder of a resumed run, from which model and tokenizer are taken instead of `init_from`."""
        super().__init__(config, pick_device(config.device, heavy=True))
        self.run = run
        if config.reward.name != "default" and not self.rewarded:
            raise RequestError(
                f"reward={config.reward.name}: method={config.method.name} takes no reward; ppo, grpo, rloo and "
                "best_of_n do"
            )
        self.start = self._start(run)
        self.tokenizer = self.start.tokenizer
        config.model, config.causal = self.start.knobs, self.start.model.causal
        if self.causal is not None and self.start.model.causal != self.causal:
            kinds = {True: "a decoder (pretrain objective=next_token)", False: "an encoder (objective=masked)"}
            raise RequestError(
                f"method={config.method.name} needs {kinds[self.causal]}; {config.init_from} is the other"
            )
        self.facts = {"parent": self.start.parent}
        self.prepare()
        if config.gradient_accumulation_steps > config.batch_size:
            raise RequestError(
                f"gradient_accumulation_steps={config.gradient_accumulation_steps} is more than "
                f"batch_size={config.batch_size}"
            )
        self._resolve()
        head = self.make_head()
        if config.optimizer.name == "muon" and config.adapt.mode in ("head", "lora"):
            raise RequestError(f"optimizer=muon needs whole matrices to train, adapt.mode={config.adapt.mode} has none")
        adapt(self.start.model, config.adapt, head is not None, config.seed)
        self.model = Finetuned(self.start.model, head).to(self.device)
        self.optimizer = self.build_optimizer()
        self.exactness = {"data": "exact: examples and dropout follow from seed and update", **self.exactness}

    def _start(self, run: Path | None) -> Start:
        config = self.config
        if run is None:
            start = open_start(config.init_from, config.seed)
            return start if config.adapt.init == "pretrained" else fresh(start, config.seed)
        from rlgym.run_folder.folder import Run

        tokenizer = Tokenizer.of_run(run)
        assert config.causal is not None
        model = rebuild(config.model, config.causal, tokenizer, config.seed)
        return Start(model, tokenizer, config.model, Run(run).manifest.get("parent", {}))

    def _resolve(self) -> None:
        """Resolve automatic values: budget, cadences, step size, device, precision, threads."""
        config = self.config
        if config.tokens is None:
            config.tokens = self.default_budget()
        epoch = self.tokens_per_epoch()
        if config.evaluate.every is None:
            config.evaluate.every = epoch
        if config.checkpoint.every is None:
            config.checkpoint.every = epoch
        if config.optimizer.learning_rate is None:
            width = self.start.model.width
            config.optimizer.learning_rate = SHARE_OF_PRETRAINING * learning_rate_for(width)
        parameters = sum(parameter.numel() for parameter in self.start.model.parameters())
        flops = 6.0 * parameters * self.tokens_per_update()
        threads = threads_for(flops)
        self.dtype = choose(self.device, config.precision, flops)
        config.precision = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        resolve_auto(config, self.device, False, threads)

    # ---- what a method sets

    @abstractmethod
    def prepare(self) -> None:
        """Read the data and set `facts["data"]`. RequestError if it cannot be used."""

    @abstractmethod
    def default_budget(self) -> int:
        """Default budget in tokens."""

    @abstractmethod
    def tokens_per_epoch(self) -> int:
        """Default interval of evaluations and checkpoints, in tokens."""

    @abstractmethod
    def tokens_per_update(self) -> int:
        """Approximate tokens per update, for choosing threads and precision."""

    def make_head(self) -> nn.Module | None:
        return None

    def descend(self, parts: list[Batch]) -> Metrics:
        """One optimiser step on the parts of a batch: each part's summed loss divided by the weight of the whole
        batch."""
        weight = torch.stack([part["weight"] for part in parts]).sum().float()
        return self.gradient_step([{**part, "total": weight} for part in parts], self.progress.step)

    def write_run_files(self, folder: Path) -> dict[str, str]:
        write_atomic(folder / "parent.json", to_json(self.start.parent))
        return super().write_run_files(folder)


class Supervised(Finetuning):
    """Supervised fine-tuning: an update is one optimiser step on a batch of examples."""

    @abstractmethod
    def batch(self, update: int) -> list[Batch]:
        """The parts of update number `update` on the device. Each has `tokens` and `weight` (0-d), and `count` (0-d, on
        the CPU), its real tokens, if padding must not count. A pure function of seed and `update`."""

    def update(self) -> Metrics:
        progress = self.progress
        parts = self.batch(progress.update)
        self.seed_dropout()
        self.model.train()
        metrics = self.descend(parts)
        progress.step += sum(int(part["count"] if "count" in part else part["tokens"].numel()) for part in parts)
        progress.update += 1
        return metrics


def chosen(examples: int, batch_size: int, seed: int, update: int) -> np.ndarray:
    """Examples of update number `update`, int64 `[batch_size]`: each epoch is a separate permutation, and a batch
    across an epoch's end takes from both."""
    epochs, places = np.divmod(np.arange(update * batch_size, (update + 1) * batch_size), examples)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(examples) for epoch in np.unique(epochs).tolist()}
    return np.array([orders[epoch][place] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)])


def padded(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad token rows on the right to `[rows, longest]`; also returns the mask of real tokens."""
    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), pad)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens.to(device), (torch.arange(longest) < lengths[:, None]).to(device)
