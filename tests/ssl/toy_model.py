"""A small model and vocabulary with the interfaces of real ones, for tests of what stands around them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.ssl.models.attention import Cache
from rlgym.ssl.models.backbone import Backbone


class ToyModel(Backbone):
    """One attention layer with fused queries, keys and values, and an MLP; the embedding is tied to the head."""

    def __init__(self, vocab_size: int = 16, width: int = 8, causal: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.causal, self.vocab_size, self.width = causal, vocab_size, width
        self.wte = nn.Embedding(vocab_size, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.wte.weight
        self.head_rows = 0
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.3, generator=generator)

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        x = self.norm(self.wte(tokens))
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        time = tokens.shape[1]
        mask = torch.ones(time, time, dtype=torch.bool).tril() if self.causal else torch.ones(time, time).bool()
        if documents is not None:
            mask = mask & (documents[:, :, None] == documents[:, None, :])
        x = x + F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden: Tensor = self.dropout(x + self.down(self.up(x).relu()))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        self.head_rows = hidden.shape[:-1].numel()
        found: Tensor = self.head(hidden)
        return found

    def matrices(self) -> dict[str, tuple[int, ...]]:
        width = self.width
        return {"qkv.weight": (width,) * 3, "up.weight": (4 * width,), "down.weight": (width,)}


@dataclass
class ToyVocabulary:
    """16 tokens: 0 [PAD], 1 [CLS], 2 [SEP], 3 [MASK], then text of 1, 2 and 3 bytes in turn; even ones begin a word."""

    vocab_size: int = 16
    special_ids: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    mask_id: int | None = 3

    @property
    def token_bytes(self) -> np.ndarray:
        sizes = 1 + np.arange(self.vocab_size) % 3
        sizes[self.special_ids] = 0
        return sizes

    @property
    def starts_word(self) -> np.ndarray:
        starts: np.ndarray = np.arange(self.vocab_size) % 2 == 0
        starts[self.special_ids] = True
        return starts


def toy_ids(rows: int, time: int, seed: int = 0, low: int = 4, vocab_size: int = 16) -> np.ndarray:
    """Text tokens drawn evenly, int64 `[rows, time]`."""
    ids: np.ndarray = np.random.default_rng(seed).integers(low, vocab_size, (rows, time))
    return ids
