"""The base of classification and regression: texts with targets, a head over a pooled hidden state, held-out examples,
and simple baselines.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rlgym.errors import RequestError
from rlgym.ssl.data.documents import Row
from rlgym.ssl.finetune import examples
from rlgym.ssl.finetune.finetuning import Supervised, chosen, padded
from rlgym.ssl.finetune.heads import Head, pool, resolve_pooling
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.ssl.models.backbone import Backbone

ROWS = 64
"""Examples per evaluation batch."""
TIMES = 10
"""Default number of evaluations and checkpoints per run, at most."""


class Labelled(Supervised):
    target_key: ClassVar[str]
    """The config field with the target's column."""
    target_names: ClassVar[Sequence[str]] = examples.LABEL_NAMES
    """Usual names of the target's column."""

    # ---- what a method defines

    @staticmethod
    @abstractmethod
    def default_table() -> tuple[examples.Table, str]:
        """Built-in examples with columns `text` and `file`, and the column of their target."""

    @abstractmethod
    def read_targets(self, values: list[Any], rows: list[Any]) -> np.ndarray:
        """Convert read targets to numbers `[examples]`; RequestError if unusable."""

    @staticmethod
    @abstractmethod
    def read_target(value: object) -> Any:
        """Read a target from a table's value; ValueError if invalid."""

    @staticmethod
    @abstractmethod
    def fits(values: Sequence[object]) -> bool:
        """Whether a column with these values can be the target."""

    def strata(self, values: list[Any]) -> list[Any]:
        """Strata for the held-out split, from the read targets."""
        return [""] * len(values)

    outputs: int
    """Number of the head's outputs."""

    # ---- data

    def prepare(self) -> None:
        config, method = self.config, self.config.method
        resolve_pooling(method, self.start.model.causal)
        self.all_held_out = method.held_out >= 1
        if method.baselines and not self.all_held_out and importlib.util.find_spec("sklearn") is None:
            raise RequestError(
                "method.baselines=true needs scikit-learn, which is not installed: "
                'pip install "rlgym-ssl[finetune]", or method.baselines=false'
            )
        table, text, target = self.table()

        def read(row: Row) -> tuple[str, Any]:
            found = examples.value(row.values, text, examples.as_text)
            self.tokenizer.check(found)
            return found, examples.value(row.values, target, self.read_target)

        rows, found = examples.usable(table, read, config.data.bad)
        texts, values = (list(part) for part in zip(*found, strict=True))
        method.text = text
        setattr(method, self.target_key, target)
        self.texts: list[str] = texts
        self.where = [row.where for row in rows]
        own_files = config.data.name == "default"
        groups = [str(row.values["file"]) if own_files else examples.same_text(str(row.values[text])) for row in rows]
        self.groups = examples.numbered(groups)
        self.targets = self.read_targets(values, rows)
        strata = self.strata(values)
        held = examples.split(groups, method.held_out, config.seed, strata)
        self.held = np.flatnonzero(held)
        train = np.flatnonzero(~held)
        self.train = examples.share_of(train, method.label_share, config.seed, [strata[i] for i in train])
        self.check_split()
        longest = resolve_length(method, self.start.model)
        self.rows = [self.tokenizer.alone(t, longest) for t in texts]
        self.compared: dict[str, np.ndarray] = {}
        """Baseline -> predictions on the held-out part; fitted on first use."""
        cut = sum(len(row) == longest for row in self.rows)
        self.facts["data"] = {
            **table.facts(),
            "text": text,
            "target": target,
            "training": len(self.train),
            "held_out": len(self.held),
            "cut": cut,
        }
        self.notices.append(
            f"data       {table.name}: {text} -> {target}, {len(self.train):,} to learn from, {len(self.held):,} held "
            f"out"
            + (f"; {cut:,} texts fill the {longest} tokens that are read of each" if cut else "")
            + table.left_out()
        )

    def table(self) -> tuple[examples.Table, str, str]:
        """(rows, column of the text, column of the target)"""
        config, key = self.config, self.target_key
        named = (config.method.text, getattr(config.method, key))
        if config.data.name == "default":
            table, target = self.default_table()
            for knob, given, own in zip(("text", key), named, ("text", target), strict=True):
                if given not in ("", own):
                    raise RequestError(f"method.{knob}={given}: data=default has the columns text and {target}")
            return table, "text", target
        table = examples.read_table(config.data)
        target = examples.column(table, named[1], f"method.{key}", self.target_names, self.fits, [named[0]])
        text = examples.column(table, named[0], "method.text", examples.TEXT_NAMES, examples.looks_like_text, [target])
        return table, text, target

    def check_split(self) -> None:
        """RequestError if the examples are unusable for training."""

    def default_budget(self) -> int:
        return max(1, int(passes(self.config, len(self.train)) * self.epoch()))

    def epoch(self) -> int:
        return sum(len(self.rows[i]) for i in self.train)

    def tokens_per_epoch(self) -> int:
        return max(1, self.epoch(), self.config.budget // TIMES)

    def tokens_per_update(self) -> int:
        return self.config.batch_size * self.epoch() // max(1, len(self.train))

    def make_head(self) -> nn.Module:
        return Head(self.start.model, self.outputs, self.config.method.pooling, self.config.seed)

    # ---- an update

    def batch(self, update: int) -> list[Batch]:
        config = self.config
        rows = self.train[chosen(len(self.train), config.batch_size, config.seed, update)]
        most = -(-len(rows) // config.gradient_accumulation_steps)
        return [self.collate(part) for part in by_length(rows.tolist(), [len(self.rows[i]) for i in rows], most)]

    def collate(self, rows: Sequence[int]) -> Batch:
        tokens, real = padded([self.rows[i] for i in rows], self.tokenizer.pad_id, self.device)
        targets = torch.from_numpy(self.targets[list(rows)]).to(self.device)
        return {
            "tokens": tokens,
            "real": real,
            "targets": targets,
            "weight": torch.tensor(len(rows), device=self.device),
            "count": torch.tensor(sum(len(self.rows[i]) for i in rows)),
        }

    def logits(self, part: Batch) -> Tensor:
        """Outputs `[rows, outputs]` of a batch."""
        return forward(
            self.start.model, self.model.head, part["tokens"], part["real"], self.config.method.pooling
        ).float()

    # ---- evaluating

    @torch.no_grad()
    def predict_rows(self, rows: Sequence[int]) -> Tensor:
        """Outputs of the examples `rows`, `[rows, outputs]`, on the CPU."""
        was_training = self.model.training
        self.model.eval()
        found = torch.empty(len(rows), self.outputs)
        order = sorted(range(len(rows)), key=lambda i: len(self.rows[rows[i]]))
        for at in range(0, len(order), ROWS):
            part = order[at : at + ROWS]
            with self.autocast():
                found[part] = self.logits(self.collate([rows[i] for i in part])).cpu()
        self.model.train(was_training)
        return found

    @abstractmethod
    def fit_baselines(self) -> dict[str, np.ndarray]:
        """Baseline -> predictions on the held-out part, `[held out]`."""

    def baselines(self) -> dict[str, np.ndarray]:
        if self.config.method.baselines and not self.all_held_out and not self.compared:
            self.compared = self.fit_baselines()
        return self.compared

    def evaluated_texts(self) -> list[str]:
        return [self.texts[i] for i in self.held]

    @staticmethod
    def adopt(config: Any, folder: Path) -> None:
        """Adapt `config` for evaluating other data: all of it is held out, without baselines."""
        config.method.held_out, config.method.label_share, config.method.baselines = 1.0, 1.0, False


def passes(config: Any, count: int) -> float:
    """`method.epochs` for `count` training examples; resolved if empty."""
    if config.method.epochs is None:
        config.method.epochs = min(30.0, max(3.0, 400 * config.batch_size / max(1, count)))
    return float(config.method.epochs)


def resolve_length(method: Any, model: Backbone) -> int:
    """`method.max_length`, at most the model's block."""
    method.max_length = min(method.max_length or model.block_size, model.block_size)
    return int(method.max_length)


def forward(backbone: Backbone, head: nn.Module, tokens: Tensor, real: Tensor, pooling: str) -> Tensor:
    """Outputs `[rows, outputs]`. Right padding is a separate document, so that real tokens do not attend to it."""
    documents = None if backbone.causal or bool(real.all()) else (~real).long()
    found: Tensor = head(pool(backbone(tokens, documents), real, pooling))
    return found


def by_length(rows: list[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Split rows into parts of at most `most`, sorted by length, so that padding at most doubles a row."""
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    parts: list[list[int]] = []
    longest = 0
    for i in order:
        if not parts or len(parts[-1]) == most or 2 * lengths[i] < longest:
            parts.append([])
            longest = lengths[i]
        parts[-1].append(rows[i])
    return parts


def weights_of(state: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Tensors of a section whose names begin with `prefix`, which is removed."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
