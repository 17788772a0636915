"""Metrics of held-out text, common to all objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.ssl.objectives.base import IGNORED, Batch, parts

if TYPE_CHECKING:
    from rlgym.ssl.models.backbone import Backbone

Predict = Callable[["Backbone", Batch], tuple[Tensor, Tensor]]
"""(model, one part of a batch) -> logits `[n, vocab]`, labels `[n]`"""


def evaluate_batches(
    predict: Predict, model: Backbone, batches: Iterable[Batch], token_bytes: Tensor, commonest: int
) -> dict[str, float]:
    """Compute metrics over all labels of `batches`. `token_bytes [vocab]`: UTF-8 bytes of each token, 0 for special
    ones.

    loss: mean over all labels in nats, including ends of documents. perplexity: its exponential. bits_per_byte: loss in
    bits of text labels divided by their bytes; unlike the loss, comparable between tokenizers. accuracy: share of
    correct most likely tokens. unigram_accuracy: accuracy of always predicting `commonest`. tokens, bytes: numbers
    evaluated.
    """
    token_bytes = token_bytes.to(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    sums: list[Tensor] = []
    try:
        with torch.no_grad():
            for batch in batches:
                for part in parts(batch):
                    sums.append(_sums(*predict(model, part), token_bytes, commonest))
    finally:
        model.train(was_training)
    # float32 suffices within a part; parts are summed in float64 and copied to the host once.
    total = torch.stack(sums).cpu().double().sum(0).tolist() if sums else [0.0] * 6
    loss, tokens, text_loss, text_bytes, right, unigram = total
    mean = loss / tokens if tokens else math.nan
    return {
        "loss": mean,
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "bits_per_byte": text_loss / math.log(2) / text_bytes if text_bytes else math.nan,
        "accuracy": right / tokens if tokens else math.nan,
        "unigram_accuracy": unigram / tokens if tokens else math.nan,
        "tokens": tokens,
        "bytes": text_bytes,
    }


def _sums(logits: Tensor, labels: Tensor, token_bytes: Tensor, commonest: int) -> Tensor:
    """`[6]`: loss, labels, loss of text, bytes, correct, correct by unigram."""
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")  # 0 if ignored
    real = labels != IGNORED
    sizes = token_bytes[labels.clamp(min=0)] * real
    right = (logits.argmax(-1) == labels) & real
    found = [losses, real, losses * (sizes > 0), sizes, right, labels == commonest]
    return torch.stack([x.sum(dtype=torch.float32) for x in found])
