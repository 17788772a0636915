"""A reward model: a scalar head on the last token, trained to give chosen answers higher rewards than rejected ones.

Pairs are compared as Bradley & Terry (1952, doi:10.2307/2334029) rank players; Stiennon et al. 2020 (arXiv:2009.01325)
train language models so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.errors import RequestError
from rlgym.learner import Evaluation
from rlgym.ssl.finetune.heads import Head
from rlgym.ssl.finetune.labelled import forward
from rlgym.ssl.finetune.labeller import Headed, headed_parts
from rlgym.ssl.finetune.paired import Paired
from rlgym.ssl.finetune.preferences import by_kind, calibration, joined, kind_table, reliability_table
from rlgym.ssl.learner import Batch
from rlgym.ssl.models.build import learning_rate_for

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig
    from rlgym.ssl.finetune.config import RewardModelMethod

LAST = "last"
"""Pooling: the last token, which has seen all others."""


SHARE_OF_PRETRAINING = 0.5
"""Share of the pretraining step size for a model of this width; its language modelling need not be kept."""


class RewardModelling(Paired):
    monitor = ("validation/accuracy", "max")

    def prepare(self) -> None:
        super().prepare()
        if self.config.optimizer.learning_rate is None:
            self.config.optimizer.learning_rate = SHARE_OF_PRETRAINING * learning_rate_for(self.start.model.width)

    def make_head(self) -> nn.Module:
        return Head(self.start.model, 1, LAST, self.config.seed)

    def rewards(self, part: Batch) -> tuple[Tensor, Tensor]:
        """Rewards of the chosen and rejected answers, `[pairs]` each."""
        found = forward(self.start.model, self.model.head, part["tokens"], part["real"], LAST).float()
        chosen, rejected = found.squeeze(1).chunk(2)
        return chosen, rejected

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        method: RewardModelMethod = self.config.method
        chosen, rejected = self.rewards(part)
        each = bradley_terry(chosen, rejected, part["margin"])
        if method.center_rewards_coefficient:
            each = each + method.center_rewards_coefficient * (chosen + rejected).square()
        return each.sum(), {"train/accuracy": (chosen > rejected).float().sum()}

    @torch.no_grad()
    def score_held_out(self) -> tuple[Tensor, Tensor]:
        """Rewards of the chosen and rejected answers of held-out pairs, `[pairs]` each, on the CPU."""
        was_training = self.model.training
        self.model.eval()
        found = torch.empty(2, len(self.held))
        for places, part in self.parts(self.held.tolist()):
            with self.autocast():
                found[:, places] = torch.stack(self.rewards(part)).cpu()
        self.model.train(was_training)
        return found[0], found[1]

    def evaluate(self) -> Evaluation:
        chosen, rejected = self.score_held_out()
        margin = torch.tensor([self.pairs[i].margin for i in self.held])
        right = (chosen > rejected).numpy()
        error, table = calibration((chosen - rejected).sigmoid().double().numpy())
        both = torch.cat([chosen, rejected])
        metrics = {
            "validation/loss": float(bradley_terry(chosen, rejected, margin).mean()),
            "validation/accuracy": float(right.mean()),
            "validation/calibration_error": error,
            "validation/margin": float((chosen - rejected).mean()),
            "validation/reward_mean": float(both.mean()),
            "validation/reward_std": float(both.std(correction=0)),
        }
        kinds = by_kind(right, self.kinds())
        texts = {"reliability": reliability_table(table), "examples": self.shown(chosen, rejected)}
        if kinds:
            texts["kinds"] = kind_table(kinds)
        records = {"examples": len(right), "reliability": table, "kinds": kinds}
        line = f"accuracy {right.mean():.2%} and calibration error {error:.3f} on {len(right):,} held-out pairs"
        return Evaluation(metrics, records, texts=texts, lines=[line])

    def shown(self, chosen: Tensor, rejected: Tensor) -> str:
        """Markdown of the worst, the median and the best ranked held-out pair."""
        order = (chosen - rejected).argsort().tolist()
        blocks = []
        for place in dict.fromkeys((order[0], order[len(order) // 2], order[-1])):
            pair = self.pairs[self.held[place]]
            for name, answer, reward in (
                ("chosen", pair.chosen, chosen[place]),
                ("rejected", pair.rejected, rejected[place]),
            ):
                text = f"{pair.prompt}⟦{answer}⟧".replace("```", "'''")
                blocks.append(f"{name}, reward {float(reward):.3g}\n\n```\n{text}\n```")
        return "\n\n".join(blocks)

    @staticmethod
    def load(config: FinetuneConfig, state: Mapping[str, Any], device: torch.device, folder: Path) -> RewardModel:
        """The reward model of the finished run in `folder`."""
        return RewardModel(*headed_parts(config, state, device, folder, 1, LAST))


class RewardModel(Headed):
    """A finished reward model. Rewards are comparable within a prompt only."""

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        ended: Sequence[bool] | None = None,
    ) -> Tensor:
        """The rewards of completions of prompts, float32 `[n]` on the CPU, encoded as in training.

        `ended`: which completions reached an end of text (default: all). Longer texts are truncated as in training.
        RequestError if a prompt leaves no room for a completion.
        """
        if len(prompts) != len(completions):
            raise RequestError(f"{len(prompts)} prompts and {len(completions)} completions: the numbers must be equal")
        rows = []
        ends = [True] * len(prompts) if ended is None else ended
        for number, (prompt, completion, end) in enumerate(zip(prompts, completions, ends, strict=True), 1):
            try:
                rows.append(self.encode(prompt, completion, end))
            except ValueError as error:
                raise RequestError(f"completion {number}: {error}") from None
        return self.read(rows).squeeze(1)

    def encode(self, prompt: str, completion: str, ended: bool = True) -> list[int]:
        """Encode prompt and completion; ValueError if the prompt leaves no room."""
        return joined(prompt, completion, self.tokenizer, self.max_length, ended)[0]


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(chosen - rejected - margin), element by element, for rewards `[pairs]` (Stiennon et al. 2020,
    section 3.4), by a margin (Touvron et al. 2023, arXiv:2307.09288, equation 2)."""
    return -F.logsigmoid(chosen - rejected - margin)
