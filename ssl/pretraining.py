"""Pretraining learner, for every objective: next-token or masked.

An update takes `batch_size` blocks, adds up the gradients of its parts, divides by the number of labels of the whole
batch, and steps once. All randomness (blocks, masks, dropout) is a function of the seed and the update's number, so
that a resume needs no generator states.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlgym.common.atomic_io import write_atomic
from rlgym.config import registry
from rlgym.config.device import ends_soon, pick_device, resolve_auto
from rlgym.config.memory import require_memory
from rlgym.errors import RequestError
from rlgym.learner import Evaluation, Metrics, Section
from rlgym.optim.ema import Ema
from rlgym.ssl.data.blocks import Batches, Blocks
from rlgym.ssl.data.documents import left_out
from rlgym.ssl.data.prepare import prepare
from rlgym.ssl.data.progress import bar, silent
from rlgym.ssl.inference import samples
from rlgym.ssl.inference.language_model import LanguageModel, load_weights
from rlgym.ssl.learner import TextLearner, threads_for
from rlgym.ssl.models import machine_layer
from rlgym.ssl.models.build import (
    batch_size_for,
    build_model,
    check_direction,
    estimate,
    learning_rate_for,
    resolve_model,
)
from rlgym.ssl.models.precision import choose, matrix_rate
from rlgym.ssl.objectives.base import Batch, Objective, parts, token_counts

if TYPE_CHECKING:
    from rlgym.config.schema import PretrainConfig
    from rlgym.ssl.models.backbone import Backbone

SECONDS_THAT_REPAY_COMPILING = 120.0
"""Minimum estimated training time on a GPU, at an MFU of 0.4. On a CPU compiling gains too little
(docs/lab-notes.md)."""
FLOPS_THAT_REPAY_KERNELS = 5e12
"""FLOP of a run that repay the one-time compilation of the layers' CPU kernels."""
LONGEST = 512
"""Longest block for the CPU kernels: they store the attention weights for the backward pass; torch recomputes them."""


class Pretraining(TextLearner):
    """Pretraining learner. Each `update()` is one optimiser step."""

    config: PretrainConfig
    model: Backbone

    def __init__(self, config: PretrainConfig, run: Path | None = None) -> None:
        """Prepares the corpus and resolves automatic values (shape, batch, step size, device, precision). `run`: the
        folder of a resumed run, whose tokenizer is used instead of the config's.
        """
        super().__init__(config, pick_device(config.device, heavy=True))
        objective_class = registry.resolve(registry.entry("objective", config.objective.name).target)
        causal: bool = objective_class.causal
        if config.causal not in (None, causal):
            raise RequestError(
                f"causal={str(config.causal).lower()}: objective={config.objective.name} requires "
                f"causal={str(causal).lower()}"
            )
        config.causal = causal
        resolve_model(config.model)
        check_direction(config.model, causal)  # refuse at once what needs no corpus
        batch_size = self._resolve_batch()
        block = config.model.block_size
        self.tokens_per_update = batch_size * block
        if config.compile == "kernels" and (why := self._against_kernels()):
            raise RequestError(f"compile=kernels: {why}; compile=off would do")
        with bar() if config.display != "quiet" else nullcontext(silent) as report:
            self.data = prepare(config, causal, report, run)
        self.tokenizer = self.data.tokenizer
        vocab_size = self.tokenizer.vocab_size
        if config.model.architecture == "transformers":
            from rlgym.ssl.models.transformers_model import resolve_padding

            resolve_padding(config.model, self.tokenizer.pad_id)
        rows = batch_size // config.gradient_accumulation_steps
        predicted = getattr(config.objective, "rate", 1.0)  # the head runs on masked tokens only
        self.estimate = estimate(config.model, vocab_size, rows, causal, predicted)
        require_memory(self.estimate.memory_bytes)
        self._resolve_device()

        counts = token_counts(self.data.train.ids, vocab_size)
        compiled = config.compile == "on"
        self.objective: Objective = objective_class(config.objective, self.tokenizer, counts, config.seed, compiled)
        documents = config.data.packing == "documents"
        blocks = Blocks(self.data.train, block, self.objective.extra, documents)
        held_out = Blocks(self.data.validation, block, self.objective.extra, documents)
        self.model = build_model(config.model, vocab_size, config.seed, causal, documents).to(self.device)
        self.model.kernels = config.compile == "kernels"
        wait = machine_layer.news() if self.model.kernels else []
        self.optimizer = self.build_optimizer()
        self.ema = None if config.ema_decay is None else Ema(self.optimizer.flat, config.ema_decay)
        if compiled:
            self.part_loss = torch.compile(self.part_loss, dynamic=False)  # type: ignore[method-assign]
        self.batches = Batches(blocks, config.seed, batch_size, self.make, self.device)
        self.validation = self._validation(held_out, rows)
        self.arithmetic = (self.estimate.flops_per_token, self.rate)
        self.notices = [*self._introduction(), *wait]
        self.facts = {"data": self.data.facts}
        self.exactness = {"data": "exact: blocks, masks and dropout follow from seed and update", **self.exactness}

    # ---- what the config leaves open

    def _resolve_batch(self) -> int:
        config = self.config
        if config.batch_size is None:
            config.batch_size = batch_size_for(config.tokens, config.model.block_size)
        parts = config.gradient_accumulation_steps
        if config.batch_size % parts:
            raise RequestError(
                f"gradient_accumulation_steps={parts} does not divide batch_size={config.batch_size}; "
                f"batch_size={-(-config.batch_size // parts) * parts} would do"
            )
        if config.optimizer.learning_rate is None:
            width = getattr(config.model, "hidden_size", None) or 768
            config.optimizer.learning_rate = learning_rate_for(width, config.optimizer.name == "muon")
        return config.batch_size

    def _resolve_device(self) -> None:
        config = self.config
        flops = self.estimate.flops_per_token * self.tokens_per_update
        threads = threads_for(flops)
        torch.set_num_threads(config.threads or threads)
        wanted = "fp32" if config.compile == "kernels" else config.precision
        self.dtype = choose(self.device, wanted, flops)
        self.rate = matrix_rate(self.device, self.dtype)
        config.precision = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        budget = self.estimate.flops_per_token * self._tokens()
        repays = budget >= FLOPS_THAT_REPAY_KERNELS and not ends_soon(config)
        if config.compile == "auto" and repays and not self._against_kernels():
            config.compile = "kernels"
        seconds = budget / (0.4 * self.rate)
        repays = self.device.type == "cuda" and seconds >= SECONDS_THAT_REPAY_COMPILING
        resolve_auto(config, self.device, repays, threads)

    def _tokens(self) -> int:
        """Upper bound on the tokens within the budgets, at the speed of matrix products."""
        config, most = self.config, self.config.tokens
        if config.updates is not None:
            most = min(most, config.updates * self.tokens_per_update)
        if config.minutes is not None:
            most = min(most, int(60 * config.minutes * self.rate / self.estimate.flops_per_token))
        return most

    def _against_kernels(self) -> str:
        """Return why the CPU kernels cannot run this config; empty if they can."""
        config, model = self.config, self.config.model
        if model.architecture == "transformers":
            return "transformers' architectures have layers of their own"
        if self.device.type != "cpu" or config.precision == "bf16":
            return f"needs a CPU in fp32, not device={self.device} precision={config.precision}"
        if model.dropout:
            return f"does not support model.dropout={model.dropout}"
        if model.block_size > LONGEST:
            return f"supports blocks of at most {LONGEST} tokens, and model.block_size={model.block_size}"
        return ""

    def _introduction(self) -> list[str]:
        config, cost, data, tokens = self.config, self.estimate, self.data, self._tokens()
        skipped = config.data.bad == "skip"  # otherwise bad documents, as in data=stdlib, are expected
        bad = left_out(*(data.facts[name] for name in ("bad", "first_bad", "bad_unit"))) if skipped else ""
        return [
            f"data       {config.data.name}: {data.facts['documents']:,} documents, {data.facts['bytes']:,} bytes, "
            f"{len(data.train.ids):,} training tokens ({tokens / max(1, len(data.train.ids)):.2f} epochs){bad}",
            f"model      {config.model.name}: {self._shape()}{cost.parameters:,} parameters, "
            f"{cost.flops_per_token:,.0f} FLOP a token, about {cost.memory_bytes / 2**20:,.0f} MiB",
            f"training   {config.batch_size} x {config.model.block_size} = {self.tokens_per_update:,} tokens an update"
            f", learning rate {config.optimizer.learning_rate:.2g} "
            f"({config.optimizer.name}, {config.optimizer.schedule})",
            f"device     {config.device}, {config.precision}, compile {config.compile}, {config.threads} threads, "
            f"{self.rate / 1e9:,.0f} GFLOP/s in products: at least "
            f"{cost.flops_per_token * tokens / self.rate / 60:.1f} minutes",
        ]

    def _shape(self) -> str:
        """Layers, width and heads, possibly derived from depth; empty for transformers' architectures."""
        model = self.config.model
        if model.architecture == "transformers":
            return ""
        return f"{model.num_hidden_layers} layers x {model.hidden_size}, {model.num_attention_heads} heads, "

    def write_run_files(self, folder: Path) -> dict[str, str]:
        super().write_run_files(folder)
        write_atomic(folder / "data_card.md", self.data.card)
        return {"data/card": self.data.card, "run/introduction": "\n".join(f"    {line}" for line in self.notices)}

    # ---- an update

    def make(self, ids: np.ndarray, documents: np.ndarray | None, step: int) -> Batch:
        """Build the batch of update `step` on the CPU, `[parts, ...]`."""
        return self.objective.make(ids, documents, step, self.config.gradient_accumulation_steps)

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective.loss(self.model, part)[0], {}

    def update(self) -> Metrics:
        progress = self.progress
        batch = self.batches.get(progress.update)
        self.seed_dropout()
        progress.step += self.tokens_per_update
        progress.update += 1
        metrics = self.gradient_step(parts(batch), progress.step)
        if progress.update == 1:  # the garbage collector would scan all modules repeatedly for nothing
            gc.collect()
            gc.freeze()
        return metrics

    # ---- evaluating

    def _validation(self, blocks: Blocks, rows: int) -> list[Batch]:
        """The held-out batches, constant over evaluations: evenly spread blocks, up to evaluate.tokens."""
        wanted = max(1, self.config.evaluate.tokens // blocks.block_size)
        indices = np.unique(np.linspace(0, len(blocks) - 1, min(wanted, len(blocks))).astype(np.int64))
        batches = []
        for number, at in enumerate(range(0, len(indices), rows)):
            ids, documents = blocks.gather(indices[at : at + rows])
            batch = self.objective.make(ids, documents, number, held_out=True)
            batches.append({name: tensor.to(self.device) for name, tensor in batch.items()})
        return batches

    def evaluate(self) -> Evaluation:
        with self.ema.swapped() if self.ema is not None else nullcontext():
            self.model.eval()
            try:
                with self.autocast():
                    found = self.objective.evaluate(self.model, self.validation)
                language = LanguageModel(self.model, self.tokenizer)
                texts = samples.show(language, self.config.sample, self.validation, self.progress.step)
            finally:
                self.model.train()
            embedding = samples.embedding(self.model, self.tokenizer, self.data.train)
        counts = {name: found.pop(name) for name in ("tokens", "bytes")}
        metrics = {f"validation/{name}": value for name, value in found.items()}
        return Evaluation(metrics, counts, texts=texts, embeddings={"embedding": embedding})

    def close(self) -> None:
        self.batches.close()

    @staticmethod
    def load(config: PretrainConfig, state: Mapping[str, Section], device: torch.device, folder: Path) -> LanguageModel:
        """The language model of the finished run in `folder`; with averaged weights if it kept them."""
        return LanguageModel.load(config, load_weights(config, state), device, folder)
