"""BERT (Devlin et al. 2019, arXiv:1810.04805): a post-norm encoder with learned positions, without the pooler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.ssl.models.attention import Cache, Pattern, attend
from rlgym.ssl.models.backbone import Backbone, Embedding, Linear
from rlgym.ssl.models.fused import gelu
from rlgym.ssl.models.machine_layer import layer as machine_layer
from rlgym.ssl.models.sizes import dimensions
from rlgym.ssl.models.weights import Weight

if TYPE_CHECKING:
    from rlgym.ssl.config import BertModel

EPS = 1e-12


class Embeddings(nn.Module):
    def __init__(self, vocab_size: int, positions: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = Embedding(vocab_size, width)
        self.position_embeddings = Embedding(positions, width)
        self.token_type_embeddings = Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, EPS)

    def forward(self, tokens: Tensor, shape: Pattern) -> Tensor:
        """All tokens have type 0: there are no sentence pairs."""
        table = self.position_embeddings.weight + self.token_type_embeddings.weight[0]
        places = table[: tokens.shape[1]] if shape.positions is None else F.embedding(shape.positions, table)
        x: Tensor = self.LayerNorm(self.word_embeddings(tokens) + places)
        return x


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(width, 3 * width)

    def forward(self, x: Tensor, shape: Pattern) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return attend(query, key, value, shape, self.dropout if self.training else 0.0)


class Output(nn.Module):
    """Projection into the residual stream, normalised after the sum."""

    def __init__(self, inner: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.dense = Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, EPS)

    def forward(self, inner: Tensor, x: Tensor) -> Tensor:
        out = self.dense(inner)
        if self.dropout:
            out = F.dropout(out, self.dropout, self.training)
        x = self.LayerNorm(x + out)
        return x


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self = SelfAttention(width, heads, dropout)
        self.output = Output(width, width, dropout)

    def forward(self, x: Tensor, shape: Pattern) -> Tensor:
        mixed: Tensor = self.output(self.self(x, shape), x)
        return mixed


class Dense(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = Linear(width, inner)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.intermediate = Dense(width, inner)
        self.output = Output(inner, width, dropout)

    def forward(self, x: Tensor, shape: Pattern) -> Tensor:
        if shape.kernels:
            attn, mixed, output = self.attention.self, self.attention.output, self.output
            return machine_layer(
                x,
                (mixed.LayerNorm, attn.qkv, mixed.dense),
                (output.LayerNorm, self.intermediate.dense, output.dense),
                before=False,
                heads=attn.heads,
                activation="gelu",
                sees=shape.sees(x.shape[1]),
            )
        x = self.attention(x, shape)
        out: Tensor = self.output(gelu(self.intermediate.dense(x)), x)
        return out


class Encoder(nn.Module):
    def __init__(self, config: BertModel) -> None:
        super().__init__()
        d = dimensions(config)
        self.layer = nn.ModuleList(Layer(d.width, d.heads, d.inner, config.dropout) for _ in range(d.layers))


class Body(nn.Module):
    def __init__(self, config: BertModel, vocab_size: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocab_size, config.block_size, dimensions(config).width)
        self.encoder = Encoder(config)


class Transform(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, EPS)


class Predictions(nn.Module):
    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(vocab_size))
        self.transform = Transform(width)


class Head(nn.Module):
    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.predictions = Predictions(width, vocab_size)


class Bert(Backbone):
    causal = False
    layers_prefix = "bert.encoder.layer."

    def __init__(self, config: BertModel, tokens: int, vocab_size: int) -> None:
        super().__init__()
        self.config, self.tokens, self.vocab_size, self.block_size = config, tokens, vocab_size, config.block_size
        self.width = dimensions(config).width
        self.bert = Body(config, vocab_size)
        self.cls = Head(self.width, vocab_size)

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        shape = self.pattern(tokens, documents, cache)
        x: Tensor = self.bert.embeddings(tokens, shape)
        if self.config.dropout:
            x = F.dropout(x, self.config.dropout, self.training)
        for layer in self.bert.encoder.layer:
            x = layer(x, shape)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        head = self.cls.predictions
        x = head.transform.LayerNorm(gelu(head.transform.dense(hidden)))
        return F.linear(x, self.embedding(), head.bias)

    def embedding(self) -> Tensor:
        return self.bert.embeddings.word_embeddings.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Initialise weights from Normal(0, 0.02), biases with 0."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, 0.0, 0.02, generator)
            else:
                nn.init.constant_(parameter, float(name.endswith("LayerNorm.weight")))

    def weights(self) -> list[Weight]:
        found: list[Weight] = []
        for name, _ in self.named_parameters():
            if ".qkv." in name:
                theirs = tuple(name.replace(".qkv.", f".{part}.") for part in ("query", "key", "value"))
                found.append(Weight(name, theirs, (self.width,) * 3))
            else:
                found.append(Weight(name, (name,)))
        return found

    def configuration(self) -> dict[str, Any]:
        d, dropout = dimensions(self.config), self.config.dropout
        return {
            "model_type": "bert",
            "architectures": ["BertForMaskedLM"],
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.block_size,
            "hidden_size": d.width,
            "num_hidden_layers": d.layers,
            "num_attention_heads": d.heads,
            "intermediate_size": d.inner,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "pad_token_id": None,
        }
