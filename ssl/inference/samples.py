"""Samples for TensorBoard during training: generated or filled-in text, and the token embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from rlgym.config.schema import SampleConfig
    from rlgym.ssl.data.tokenizer import Tokenizer
    from rlgym.ssl.data.tokens import Tokens
    from rlgym.ssl.inference.language_model import LanguageModel
    from rlgym.ssl.models.backbone import Backbone

SHOWN = 2_000
"""Number of the corpus's most frequent tokens in the projector."""
COUNTED = 2_000_000
"""Number of corpus tokens counted for it."""


def show(language: LanguageModel, config: SampleConfig, held_out: list[dict[str, Tensor]], seed: int) -> dict[str, str]:
    """Markdown by tag: generated texts of a next-token model, or held-out texts filled in by a masked model."""
    if not config.count:
        return {}
    if language.causal:
        prompts = [config.prompt] * config.count
        texts = language.generate(prompts, config.tokens, config.temperature, seed=seed)
        return {"samples": "\n\n".join(f"```\n{config.prompt}{_fenced(text)}\n```" for text in texts)}
    return {"samples": filled_in(language, held_out[0], config.count)}


def filled_in(language: LanguageModel, batch: dict[str, Tensor], count: int) -> str:
    """The first `count` rows of a batch with `[masked token -> prediction]` in the text."""
    model, tokenizer = language.model, language.tokenizer
    batch = {name: tensor[0] for name, tensor in batch.items()}  # the first part
    real = (batch["labels"] >= 0).nonzero().flatten()
    places, labels = batch["positions"][real], batch["labels"][real]
    with torch.inference_mode():
        hidden = model(batch["tokens"], batch.get("documents")).flatten(0, 1)
        guesses = model.logits(hidden[places])[:, : tokenizer.vocab_size].argmax(-1)
    length = batch["tokens"].shape[1]
    rows = [row.tolist() for row in batch["tokens"][:count]]
    marked: dict[int, str] = {}
    for place, label, guess in zip(places.tolist(), labels.tolist(), guesses.tolist(), strict=True):
        marked[place] = f"⟦{tokenizer.decode([label])} → {tokenizer.decode([guess])}⟧"
    texts = []
    for row, ids in enumerate(rows):
        parts, plain = [], []
        for at, token in enumerate(ids):
            if (mark := marked.get(row * length + at)) is None:
                plain.append(token)
                continue
            parts += [tokenizer.decode(plain), mark]
            plain = []
        texts.append("".join([*parts, tokenizer.decode(plain)]))
    return "hidden → guessed\n\n" + "\n\n".join(f"```\n{_fenced(text)}\n```" for text in texts)


def embedding(model: Backbone, tokenizer: Tokenizer, tokens: Tokens) -> tuple[np.ndarray, list[str]]:
    """Embeddings `[rows, width]` of the corpus's most frequent tokens, and their text."""
    counts = np.bincount(tokens.ids[:COUNTED], minlength=tokenizer.vocab_size)
    ids = np.argsort(-counts, kind="stable")[:SHOWN]
    ids = ids[counts[ids] > 0]
    return model.embedding().detach().float().cpu().numpy()[ids], [tokenizer.decode([i], False) for i in ids.tolist()]


def _fenced(text: str) -> str:
    return text.replace("```", "'''")
