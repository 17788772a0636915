"""Samples completions of prompts in batches with a key-value cache, and measures their diversity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.ssl.inference.language_model import continued
from rlgym.ssl.inference.sampling import sample

if TYPE_CHECKING:
    from rlgym.ssl.data.tokenizer import Tokenizer
    from rlgym.ssl.models.backbone import Backbone

ROWS = 128
"""Prompts per sampling batch. Prompts of similar length share a batch to reduce padding."""


@dataclass(frozen=True)
class Sampling:
    """The sampling distribution of a method's config."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass
class Rollouts:
    """Completions with their prompts."""

    tokens: Tensor
    """int64 `[rows, time]`, prompt and completion, right-padded."""
    mask: Tensor
    """bool `[rows, time]`: the completion's tokens, including the end of text."""
    ended: Tensor
    """bool `[rows]`: reached an end of text; the others are truncated."""
    texts: list[str]
    """Completions as text, without the end of text."""

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion, `[rows]`."""
        return self.mask.sum(1)


def roll_out(
    model: Backbone, tokenizer: Tokenizer, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator
) -> Rollouts:
    """Sample a completion of each prompt (token ids, of any lengths), in the order of the prompts."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    new: list[list[int]] = [[] for _ in prompts]
    for at in range(0, len(order), ROWS):
        rows = order[at : at + ROWS]
        found = sample(
            model,
            [prompts[row] for row in rows],
            sampling.max_new_tokens,
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            generator,
            stop=tokenizer.stop_ids,
            pad=tokenizer.pad_id,
        )
        for row, tokens in zip(rows, found, strict=True):
            new[row] = tokens
    return behind(tokenizer, prompts, new, model.embedding().device)


def behind(tokenizer: Tokenizer, prompts: list[list[int]], new: list[list[int]], device: torch.device) -> Rollouts:
    """Build tensors from prompts and completions (token ids)."""
    longest = max(len(prompt) + len(tokens) for prompt, tokens in zip(prompts, new, strict=True))
    whole = torch.full((len(prompts), longest), tokenizer.pad_id)
    mask = torch.zeros(whole.shape, dtype=torch.bool)
    for row, (prompt, tokens) in enumerate(zip(prompts, new, strict=True)):
        end = len(prompt) + len(tokens)
        whole[row, :end] = torch.tensor(prompt + tokens)
        mask[row, len(prompt) : end] = True
    ended = torch.tensor([bool(tokens) and tokens[-1] in tokenizer.stop_ids for tokens in new])
    texts = [continued(tokenizer, prompt, tokens) for prompt, tokens in zip(prompts, new, strict=True)]
    return Rollouts(whole.to(device), mask.to(device), ended.to(device), texts)


def distinct(completions: list[list[int]], n: int) -> float:
    """Share of distinct token n-grams over all completions (Li et al. 2016, arXiv:1510.03055). It falls as texts become
    alike, and with the number of tokens, so compare equal numbers of completions.
    """
    grams = [tuple(row[at : at + n]) for row in completions for at in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(completions: list[list[int]], n: int = 4) -> float:
    """Share of repeated n-grams within a completion, averaged over completions with any n-grams (Welleck et al. 2020,
    arXiv:1908.04319, seq-rep-n)."""
    shares = []
    for row in completions:
        grams = [tuple(row[at : at + n]) for at in range(len(row) - n + 1)]
        if grams:
            shares.append(1 - len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else 0.0


def diversity(rollouts: Rollouts) -> dict[str, float]:
    """The metrics distinct_1, distinct_2 and repetition of the completions."""
    tokens, mask = rollouts.tokens.cpu(), rollouts.mask.cpu()
    rows = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
    return {"distinct_1": distinct(rows, 1), "distinct_2": distinct(rows, 2), "repetition": repetition(rows)}
