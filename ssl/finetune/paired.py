"""The base of preference methods: pairs of answers, both sides in one batch, held-out pairs.

A method's own file has the comparison of a pair's sides and the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlgym.ssl.data.documents import left_out
from rlgym.ssl.finetune.finetuning import Supervised, chosen, padded
from rlgym.ssl.finetune.labelled import by_length, resolve_length
from rlgym.ssl.finetune.preferences import Tokens, open_pairs
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import PreferenceMethod

ROWS = 32
"""Pairs per evaluation batch."""
TIMES = 10
"""Default number of evaluations and checkpoints per run."""


class Paired(Supervised):
    def prepare(self) -> None:
        method: PreferenceMethod = self.config.method
        longest = resolve_length(method, self.start.model)
        read = open_pairs(self.config.data, method, self.config.seed, self.tokenizer, longest)
        self.pairs, self.tokens = read.pairs, read.tokens
        self.train, self.held = np.flatnonzero(~read.held), np.flatnonzero(read.held)
        self.facts["data"] = read.facts()
        cut = self.facts["data"]["cut"]
        self.notices.append(
            f"data       {read.source}: {len(self.train):,} pairs to learn from, {len(self.held):,} held out"
            + (f"; of {cut:,} an answer goes on beyond the {longest} tokens that are read" if cut else "")
            + (left_out(read.bad, read.first_bad) if self.config.data.name != "default" else "")
        )

    def default_budget(self) -> int:
        return max(1, int(self.config.method.epochs * self.epoch()))

    def epoch(self) -> int:
        return sum(len(self.tokens[i].chosen) + len(self.tokens[i].rejected) for i in self.train)

    def tokens_per_epoch(self) -> int:
        return max(1, self.config.budget // TIMES)

    def tokens_per_update(self) -> int:
        return self.config.batch_size * self.epoch() // max(1, len(self.train))

    # ---- an update

    def batch(self, update: int) -> list[Batch]:
        config = self.config
        rows = self.train[chosen(len(self.train), config.batch_size, config.seed, update)].tolist()
        most = -(-len(rows) // config.gradient_accumulation_steps)
        return [self.collate(part) for part in by_length(rows, [length(self.tokens[i]) for i in rows], most)]

    def collate(self, rows: Sequence[int]) -> Batch:
        """A batch of the pairs `rows`: tokens `[2 pairs, time]`, chosen sides first; masks `real` and `answer` of the
        same shape; `pair`, `margin` `[pairs]`."""
        pairs = [self.tokens[i] for i in rows]
        sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        tokens, real = padded(sides, self.tokenizer.pad_id, self.device)
        prompts = torch.tensor([pair.prompt for pair in pairs] * 2, device=self.device)
        return {
            "tokens": tokens,
            "real": real,
            "answer": real & (torch.arange(tokens.shape[1], device=self.device) >= prompts[:, None]),
            "pair": torch.tensor(rows),
            "margin": torch.tensor([self.pairs[i].margin for i in rows], device=self.device),
            "weight": torch.tensor(len(rows), device=self.device),
            "count": torch.tensor(sum(map(len, sides))),
        }

    # ---- evaluating

    def parts(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Batch]]:
        """The pairs `rows` in batches of similar length: (indices into `rows`, batch)."""
        order = sorted(range(len(rows)), key=lambda place: length(self.tokens[rows[place]]))
        for at in range(0, len(order), ROWS):
            places = order[at : at + ROWS]
            yield places, self.collate([rows[place] for place in places])

    def kinds(self) -> list[str]:
        return [self.pairs[i].kind for i in self.held]

    def evaluated_texts(self) -> list[str]:
        """The held-out prompts with chosen answers, for the overlap check."""
        return [self.pairs[i].prompt + self.pairs[i].chosen for i in self.held]

    @staticmethod
    def adopt(config: Any, folder: Path) -> None:
        """Adapt `config` for evaluating other data: all of it is held out."""
        config.method.held_out = 1.0


def length(pair: Tokens) -> int:
    return max(len(pair.chosen), len(pair.rejected))
