"""Classification: a head over a pooled hidden state, trained by cross-entropy or focal loss (Lin et al. 2017,
arXiv:1708.02002, equation 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.errors import RequestError
from rlgym.files import to_json, write_atomic
from rlgym.learner import Evaluation
from rlgym.ssl.finetune import examples
from rlgym.ssl.finetune.finetuning import Batch, Finetuning, chosen, padded

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import ClassificationMethod

ROWS = 64
"""Judged at once."""


class Classification(Finetuning):
    monitor = ("validation/accuracy", "max")

    def prepare(self) -> None:
        method: ClassificationMethod = self.config.method
        table = examples.read_table(self.config.data, [name for name in (method.text, method.label) if name])
        label = examples.column(
            table, method.label, "method.label", examples.LABEL_NAMES, examples.looks_like_labels, [method.text]
        )
        text = examples.column(
            table, method.text, "method.text", examples.TEXT_NAMES, examples.looks_like_text, [label]
        )
        texts = [str(row.values[text]) for row in table.rows]
        labels = [str(row.values[label]) for row in table.rows]
        self.labels = sorted(set(labels))
        if len(self.labels) < 2:
            raise RequestError(
                f"method.label={label}: every row says {self.labels[0]!r}; there is nothing to tell apart"
            )
        held = examples.split([examples.same_text(t) for t in texts], method.held_out, self.config.seed, labels)
        number = {name: i for i, name in enumerate(self.labels)}
        y = np.array([number[name] for name in labels])
        missing = set(range(len(self.labels))) - set(y[~held].tolist())
        if missing:
            names = ", ".join(self.labels[i] for i in sorted(missing))
            raise RequestError(f"method.label={label}: {names} is never seen in training; too few examples of it")
        rows = [self.encode(t) for t in texts]
        self.train = [(rows[i], int(y[i])) for i in np.flatnonzero(~held)]
        self.held = [(rows[i], int(y[i])) for i in np.flatnonzero(held)]
        self.facts["data"] = {
            **table.facts(),
            "text": text,
            "label": label,
            "labels": self.labels,
            "held_out": int(held.sum()),
        }

    def encode(self, text: str) -> list[int]:
        """The text's tokens behind what begins a document, cut to `max_length`."""
        tokenizer, method = self.tokenizer, self.config.method
        longest = min(method.max_length or self.start.model.block_size, self.start.model.block_size)
        if self.start.model.causal:
            return [tokenizer.eos_id, *tokenizer.encode(text)][:longest]
        assert tokenizer.cls_id is not None and tokenizer.sep_id is not None
        return [tokenizer.cls_id, *tokenizer.encode(text)[: longest - 2], tokenizer.sep_id]

    def default_budget(self) -> int:
        return int(self.config.method.epochs * self.tokens_per_epoch())

    def tokens_per_epoch(self) -> int:
        return sum(len(row) for row, _ in self.train)

    def tokens_per_update(self) -> int:
        return self.config.batch_size * self.tokens_per_epoch() // len(self.train)

    def make_head(self) -> nn.Module:
        generator = torch.Generator().manual_seed(self.config.seed)
        head = nn.Linear(self.start.model.width, len(self.labels))
        with torch.no_grad():
            head.weight.normal_(0.0, 0.02, generator=generator)
            head.bias.zero_()
        return head

    # ---- an update

    def batch(self, update: int) -> list[Batch]:
        config = self.config
        rows = [self.train[i] for i in chosen(len(self.train), config.batch_size, config.seed, update)]
        size = -(-len(rows) // config.gradient_accumulation_steps)
        return [self.collate(rows[at : at + size]) for at in range(0, len(rows), size)]

    def collate(self, rows: Sequence[tuple[list[int], int]]) -> Batch:
        tokens, real = padded([row for row, _ in rows], self.tokenizer.pad_id, self.device)
        labels = torch.tensor([label for _, label in rows], device=self.device)
        return {"tokens": tokens, "real": real, "labels": labels, "weight": torch.tensor(len(rows), device=self.device)}

    def logits(self, part: Batch) -> Tensor:
        """`[rows, classes]`"""
        tokens, real = part["tokens"], part["real"]
        # Padding is a document of its own: nothing real sees it.
        hidden = self.model.backbone(tokens, None if self.start.model.causal else (~real).long())
        found: Tensor = self.model.head(pool(hidden, real, self.config.method.pooling))
        return found.float()

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        method: ClassificationMethod = self.config.method
        logits, labels = self.logits(part), part["labels"]
        each = F.cross_entropy(
            logits, labels, self.class_weights, reduction="none", label_smoothing=method.label_smoothing
        )
        if method.focal_gamma:
            right = logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
            each = each * (1 - right) ** method.focal_gamma
        return each.sum(), {"train/accuracy": (logits.argmax(-1) == labels).float().sum()}

    @property
    def class_weights(self) -> Tensor | None:
        """Mean 1 over the training examples."""
        if not self.config.method.class_weights:
            return None
        counts = np.bincount([label for _, label in self.train], minlength=len(self.labels))
        return torch.tensor(len(self.train) / (len(self.labels) * counts), dtype=torch.float32, device=self.device)

    # ---- judging

    def evaluate(self) -> Evaluation:
        self.model.eval()
        logits, labels = self.judge(self.held)
        share = logits.softmax(-1)
        right = share.argmax(-1) == labels
        metrics = {
            "validation/loss": float(F.cross_entropy(logits, labels)),
            "validation/accuracy": float(right.float().mean()),
        }
        return Evaluation(metrics, {"examples": len(labels)})

    @torch.no_grad()
    def judge(self, rows: Sequence[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
        """Logits `[rows, classes]` and labels `[rows]`, on the CPU."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        logits = torch.empty(len(rows), len(self.labels))
        for at in range(0, len(order), ROWS):
            part = order[at : at + ROWS]
            with self.autocast():
                logits[part] = self.logits(self.collate([rows[i] for i in part])).cpu()
        return logits, torch.tensor([label for _, label in rows])

    def furnish(self, folder: Path) -> dict[str, str]:
        write_atomic(folder / "labels.json", to_json(self.labels))
        return super().furnish(folder)


def pool(hidden: Tensor, real: Tensor, how: str) -> Tensor:
    """One vector of each row, `[rows, width]`, from `hidden [rows, time, width]` and which tokens are `real`."""
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), real.sum(1) - 1]
    share = real.to(hidden.dtype)
    return (hidden * share[..., None]).sum(1) / share.sum(1, keepdim=True)
