"""Rejection sampling: cross-entropy on the best of n completions (RAFT, Dong et al. 2023, arXiv:2304.06767).

The baseline to beat at equal sampling cost. Of each prompt's completions the one with the highest reward is kept (the
first of equals) if its reward exceeds `above`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.learner import NON_FINITE, Metrics
from rlgym.ssl.finetune.rewarded import Rewarded
from rlgym.ssl.finetune.rollouts import Rollouts
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import BestOfNMethod


class BestOfN(Rewarded):
    @property
    def knobs(self) -> BestOfNMethod:
        found: BestOfNMethod = self.config.method
        return found

    def learn(self, rollouts: Rollouts, reward: Tensor) -> Metrics:
        log_prob, entropy, _ = self.evaluate_tokens(self.model.backbone, rollouts)
        reference, _, _ = self.evaluate_tokens(self.reference, rollouts)
        kept = best(self.shaped(rollouts, reward), self.knobs.group_size, self.knobs.above)
        if self.knobs.truncated == "mask":
            kept = kept[rollouts.ended[kept]]
        metrics = self.observed(rollouts, reward, log_prob, reference, entropy)
        metrics["rollout/kept"] = len(kept) / self.knobs.prompts
        if not len(kept):  # nothing to learn from
            return metrics | {NON_FINITE: 0.0}
        mask = rollouts.mask[kept]
        return metrics | self.steps({"tokens": rollouts.tokens[kept], "mask": mask, "counts": mask})

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-probabilities under the model's own distribution, regardless of the sampling temperature."""
        backbone = self.model.backbone
        row, column = part["mask"].nonzero(as_tuple=True)
        logits = backbone.logits(backbone(part["tokens"])[row, column - 1])[:, : backbone.tokens].float()
        return F.cross_entropy(logits, part["tokens"][row, column], reduction="sum"), {}


def best(reward: Tensor, group_size: int, above: float | None) -> Tensor:
    """Rows to keep, int64 `[n]`: the row with the highest reward in each group of `reward [groups x group_size]`, the
    first one on ties."""
    value, place = reward.view(-1, group_size).max(1)
    rows = torch.arange(len(value), device=reward.device) * group_size + place
    return rows if above is None else rows[value > above]
