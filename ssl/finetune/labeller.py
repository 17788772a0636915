"""Finished models with a head: the result of `rlgym.load(run)` for labelled methods and reward models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.finetune.finetuning import padded
from rlgym.ssl.finetune.heads import Head
from rlgym.ssl.finetune.labelled import ROWS, forward, weights_of
from rlgym.ssl.finetune.start import language_part
from rlgym.ssl.models.backbone import Backbone
from rlgym.training.load_module import load_finite

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig


class Headed:
    """A language model with a head."""

    def __init__(self, model: Backbone, head: Head, tokenizer: Tokenizer, pooling: str, max_length: int) -> None:
        self.model, self.head, self.tokenizer = model.eval(), head.eval(), tokenizer
        self.pooling, self.max_length = pooling, max_length

    @property
    def device(self) -> torch.device:
        return self.model.embedding().device

    @torch.inference_mode()
    def read(self, rows: Sequence[list[int]]) -> Tensor:
        """Outputs for each row of tokens, `[rows, outputs]`, on the CPU."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = torch.empty(len(rows), self.head.out.out_features)
        for at in range(0, len(order), ROWS):
            part = order[at : at + ROWS]
            tokens, real = padded([rows[i] for i in part], self.tokenizer.pad_id, self.device)
            found[part] = forward(self.model, self.head, tokens, real, self.pooling).float().cpu()
        return found


class Labeller(Headed, ABC):
    """A model that encodes texts exactly as in training."""

    def outputs(self, texts: Sequence[str]) -> Tensor:
        """Outputs for each text, `[texts, outputs]`, on the CPU."""
        return self.read([self.tokenizer.alone(text, self.max_length) for text in texts])

    @abstractmethod
    def describe(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """New columns for each text, for `predict`."""


class Classifier(Labeller):
    def __init__(
        self, model: Backbone, head: Head, tokenizer: Tokenizer, pooling: str, max_length: int, labels: list[str]
    ) -> None:
        super().__init__(model, head, tokenizer, pooling, max_length)
        self.labels = labels

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most likely label of each text."""
        return [self.labels[i] for i in self.outputs(texts).argmax(1).tolist()]

    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Probabilities `[texts, labels]`, in the order of `labels`."""
        return self.outputs(texts).double().softmax(1)

    def describe(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """New columns: predicted, probability, and the probability of every label."""
        found = []
        for row in self.probabilities(texts).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            every = {f"probability_{label}": round(share, 6) for label, share in zip(self.labels, row, strict=True)}
            found.append({"predicted": self.labels[best], "probability": round(row[best], 6), **every})
        return found


class Regressor(Labeller):
    def __init__(
        self, model: Backbone, head: Head, tokenizer: Tokenizer, pooling: str, max_length: int, mean: float, std: float
    ) -> None:
        super().__init__(model, head, tokenizer, pooling, max_length)
        self.mean, self.std = mean, std

    def predict(self, texts: Sequence[str]) -> list[float]:
        """Predicted numbers, in the targets' unit."""
        found: list[float] = (self.outputs(texts)[:, 0].double() * self.std + self.mean).tolist()
        return found

    def describe(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """predicted"""
        return [{"predicted": value} for value in self.predict(texts)]


def headed_parts(
    config: FinetuneConfig, state: Mapping[str, Any], device: torch.device, folder: Path, outputs: int, pooling: str
) -> tuple[Backbone, Head, Tokenizer, str, int]:
    """Model, head, tokenizer, pooling and length of the finished run in `folder`."""
    tokenizer = Tokenizer.of_run(folder)
    model = language_part(config, state["model"], tokenizer)
    head = Head(model, outputs, pooling, config.seed)
    load_finite(head, weights_of(state["model"], "head."))
    return model.to(device), head.to(device), tokenizer, pooling, int(config.method.max_length)
