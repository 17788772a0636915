"""Hyper-parameters of learning from text, named as in transformers and nanoGPT. Imports no torch, since `--help` reads
it. Empty ones (None) are derived from others; the derived value is written into the run's config.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlgym.config.schema import knob

CORPUS = "/root=pretrain: fine-tuning takes each row as an example, by the keys of its method"
"""Why corpus settings have no effect on a table of examples."""
BAD = "what cannot be read as text or as a row: stop, or skip and count it"

# ---- objectives


@dataclass
class NextTokenConfig:
    """Predict each token from those before it (Radford et al. 2018)."""

    name: str = knob("next_token", "the objective's name in the registry, or module:Class")


@dataclass
class MaskedConfig:
    """Predict hidden tokens from all others (Devlin et al. 2019, arXiv:1810.04805)."""

    name: str = knob("masked", "the objective's name in the registry, or module:Class")
    rate: float = knob(0.3, "share of tokens to mask (BERT 0.15; ModernBERT 0.3)", gt=0, lt=1)
    corruption: str = knob(
        "bert",
        "replacement of masked tokens: 80 % [MASK], 10 % random, 10 % unchanged (bert), or always [MASK] (mask)",
        choices=("bert", "mask"),
    )
    unit: str = knob("token", "unit of masking", choices=("token", "word", "span"))
    span_length: float | None = knob(None, "mean length of a span, with unit=span; empty: 3 (SpanBERT: 3.8)", ge=1)

    def __post_init__(self) -> None:
        if self.span_length is not None and self.unit != "span":
            raise ValueError(f"span_length={self.span_length:g} needs unit=span")
        if self.unit == "span" and self.mean_span * (1 - self.rate) < self.rate:  # fewer than one token between spans
            least = self.rate / (1 - self.rate)
            raise ValueError(f"rate={self.rate:g} with unit=span needs span_length={least:g} or more")

    @property
    def mean_span(self) -> float:
        """Mean length of a span, in tokens."""
        return 3.0 if self.span_length is None else self.span_length


# ---- corpora


@dataclass
class DataConfig:
    """Settings of every corpus."""

    packing: str = knob(
        "documents",
        "blocks of several documents with attention inside each (documents), or one plain stream (stream)",
        choices=("documents", "stream"),
        needs=CORPUS,
    )
    validation_fraction: float = knob(0.05, "share of bytes held out, in whole documents", gt=0, lt=1, needs=CORPUS)
    deduplicate: bool = knob(True, "drop exact duplicates", needs=CORPUS)
    min_length: int = knob(1, "drop documents with fewer characters", ge=0, needs=CORPUS)
    normalize: str = knob("none", "Unicode normalisation", choices=("none", "NFC", "NFKC"), needs=CORPUS)
    bad: str = knob("stop", BAD, choices=("stop", "skip"))
    licence: str = knob("", "the corpus's licence, for the data card and the model card", needs=CORPUS)
    cache: str = knob("", "folder of prepared data; empty: $RLGYM_CACHE, else ~/.cache/rlgym", needs=CORPUS)


@dataclass
class StdlibData(DataConfig):
    """The Python standard library's own source and reference text, without site-packages."""

    name: str = knob("stdlib", "the corpus's name in the registry")
    documents: str = knob(
        "mixed",
        "one document per file (files), per function without comments (functions), or files with short functions as "
        "separate documents (mixed), for reward=python_syntax",
        choices=("files", "functions", "mixed"),
    )
    bad: str = knob(
        "stop", BAD, choices=("stop", "skip"), needs="what cannot be read of the library is left out anyway"
    )
    licence: str = knob("PSF-2.0", "the corpus's licence, for the data card and the model card", needs=CORPUS)


@dataclass
class AdditionsData(DataConfig):
    """Additions of two numbers, `12+34=46`, learnable by a small model, as a start for reward=arithmetic."""

    name: str = knob("additions", "the corpus's name in the registry")
    digits: int = knob(2, "digits of both numbers", ge=1, le=3)
    bad: str = knob("stop", BAD, choices=("stop", "skip"), needs="additions can all be read")
    licence: str = knob("CC0-1.0", "the corpus's licence, for the data card and the model card", needs=CORPUS)


@dataclass
class FileData(DataConfig):
    path: list[str] = knob(
        [], "files, folders (all files of this kind in them) or globs; .gz and .zst are decompressed"
    )


@dataclass
class TextData(FileData):
    """Plain text files, one document each unless split by `separator`."""

    name: str = knob("text", "the corpus's name in the registry")
    separator: str = knob("", "separator of documents, such as <|endoftext|>; empty: one document per file")


@dataclass
class JsonlData(FileData):
    """JSON lines, one object per line."""

    name: str = knob("jsonl", "the corpus's name in the registry")
    column: str = knob("text", "field with the text", needs=CORPUS)


@dataclass
class CsvData(FileData):
    """Comma- or otherwise separated values, one document per row."""

    name: str = knob("csv", "the corpus's name in the registry")
    column: str = knob("text", "column that holds the text", needs=CORPUS)
    columns: list[str] = knob([], "column names, for files without a header")
    delimiter: str = knob("", "delimiter; empty: tab in .tsv files, comma elsewhere")
    quoting: bool = knob(True, 'whether "..." quotes delimiters and newlines; false: quotes are plain characters')


@dataclass
class ParquetData(FileData):
    """Parquet files, one document per row."""

    name: str = knob("parquet", "the corpus's name in the registry")
    column: str = knob("text", "column that holds the text", needs=CORPUS)


@dataclass
class HubData(DataConfig):
    """Any data set that `datasets` loads by name, or a local folder in the hub's layout. Runs none of its code."""

    name: str = knob("hub", "the corpus's name in the registry")
    path: str = knob("", "name on the hub, such as roneneldan/TinyStories, or a local folder")
    config: str = knob("", "the data set's configuration; empty: its default")
    split: str = knob("train", "split to read; held-out documents are taken from it")
    column: str = knob("text", "column that holds the text", needs=CORPUS)
    revision: str = knob("", "commit, tag or branch; empty: the latest commit, which is recorded")
    streaming: bool = knob(False, "stream it instead of downloading it completely")
    max_documents: int | None = knob(None, "maximum number of documents, from the start", gt=0)


@dataclass
class DefaultData(DataConfig):
    """Fine-tuning: the method's built-in examples."""

    name: str = knob("default", "the examples' name in the registry")
    bad: str = knob("stop", BAD, choices=("stop", "skip"), needs="the method's own examples can all be read")


# ---- tokenizers


@dataclass
class BpeTokenizer:
    """Byte-level byte-pair encoding, trained on the corpus (Sennrich et al. 2016; Radford et al. 2019)."""

    name: str = knob("bpe", "the tokenizer's name in the registry")
    vocab_size: int = knob(2_048, "vocabulary size, including special tokens", ge=270)
    min_frequency: int = knob(2, "minimum frequency of a merge", gt=0)
    training_bytes: int = knob(100_000_000, "maximum bytes of training text, evenly spread; bounds memory", gt=0)


@dataclass
class CharTokenizer:
    """One token per character of the corpus."""

    name: str = knob("char", "the tokenizer's name in the registry")
    byte_fallback: bool = knob(
        True, "256 byte tokens for characters that the corpus lacks; false: such characters are refused"
    )


@dataclass
class ByteTokenizer:
    """One token per byte of UTF-8."""

    name: str = knob("byte", "the tokenizer's name in the registry")


@dataclass
class ExistingTokenizer:
    """An existing tokenizer: a folder or run with a tokenizer.json, or a name on the hub."""

    name: str = knob("existing", "the tokenizer's name in the registry")
    path: str = knob("", "folder with a tokenizer.json, a run folder, or a name on the hub")
    revision: str = knob("", "commit, tag or branch on the hub; empty: the latest")


# ---- models


@dataclass
class ModelConfig:
    """A transformer's shape. `depth` alone determines a model; explicit values override derived ones."""

    name: str = knob("", "model's name in folders and cards; set by model=NAME")
    block_size: int = knob(256, "tokens of a training sequence: the context length", gt=1)
    depth: int | None = knob(
        None,
        "number of layers, from which width, heads, learning rate and batch size follow where empty",
        gt=0,
        needs="num_hidden_layers= or hidden_size=: layers and width are set, by model=NAME or by their own keys; "
        "model=gpt2, llama, qwen3, bert or modernbert are made by model.depth",
    )
    num_hidden_layers: int | None = knob(None, "layers; empty: depth", gt=0)
    hidden_size: int | None = knob(None, "width; empty: 64 x depth", gt=0)
    num_attention_heads: int | None = knob(None, "attention heads; empty: width / 64", gt=0)
    intermediate_size: int | None = knob(None, "width of the MLP; empty: the architecture's multiple", gt=0)
    vocab_multiple: int = knob(64, "pad the embedding's rows to a multiple of this", gt=0)
    dropout: float = knob(0.0, "dropout, wherever the architecture has it", ge=0, lt=1)


@dataclass
class GPT2Model(ModelConfig):
    """GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU, tied embeddings."""

    architecture: str = knob("gpt2", "the model's architecture in the registry")


@dataclass
class LlamaModel(ModelConfig):
    """Llama (Touvron et al. 2023): RoPE, RMSNorm, gated MLP, grouped heads."""

    architecture: str = knob("llama", "the model's architecture in the registry")
    num_key_value_heads: int | None = knob(None, "key / value heads; empty: as many as attention heads", gt=0)
    rope_theta: float = knob(10_000.0, "base of the rotary frequencies", gt=0)
    tie_word_embeddings: bool = knob(True, "share one matrix between embedding and head")


@dataclass
class Qwen3Model(LlamaModel):
    """Qwen3 (2025): Llama's layout with the norm of queries and keys."""

    architecture: str = knob("qwen3", "the model's architecture in the registry")


@dataclass
class BertModel(ModelConfig):
    """BERT (Devlin et al. 2019): post-norm encoder, learned positions."""

    architecture: str = knob("bert", "the model's architecture in the registry")


@dataclass
class ModernBertModel(ModelConfig):
    """ModernBERT (Warner et al. 2024, arXiv:2412.13663): pre-norm, RoPE, gated MLP, local and global attention."""

    architecture: str = knob("modernbert", "the model's architecture in the registry")
    local_attention: int = knob(
        128, "window of local attention layers, in tokens", gt=1, needs="global_attn_every_n_layers!=1"
    )
    global_attn_every_n_layers: int = knob(3, "interval of global attention layers", gt=0)


@dataclass
class TransformersModel:
    """An architecture of `transformers` by name, using its modules."""

    architecture: str = knob("transformers", "the model's architecture in the registry")
    name: str = knob("transformers", "model's name in folders and cards")
    model_type: str = knob("", "transformers' name of the architecture, such as gpt_neox, mistral, roberta")
    block_size: int = knob(256, "tokens of a training sequence: the context length", gt=1)
    vocab_multiple: int = knob(64, "pad the embedding's rows to a multiple of this", gt=0)
    config: dict[str, object] = knob({}, "values of its configuration: +model.config.num_hidden_layers=4")


# ---- optimisers


@dataclass
class OptimizerConfig:
    """Settings of every optimiser."""

    learning_rate: float | None = knob(None, "AdamW's peak step size; empty: from the model's width", gt=0)
    schedule: str = knob(
        "cosine",
        "schedule after the warmup: cosine, constant followed by a decay (wsd), linear, or constant",
        choices=("cosine", "wsd", "linear", "constant"),
    )
    warmup: float = knob(0.02, "share of the budget for the linear warmup", ge=0, lt=1)
    decay: float = knob(0.3, "share of the budget for the decay of schedule=wsd", gt=0, le=1, needs="schedule=wsd")
    min_learning_rate: float = knob(
        0.1, "final step size as a share of the peak", ge=0, le=1, needs="schedule!=constant"
    )
    weight_decay: float = knob(0.1, "decoupled weight decay of matrices; vectors have none", ge=0)
    beta1: float = knob(0.9, "AdamW's first moment", ge=0, lt=1)
    beta2: float = knob(0.95, "AdamW's second moment", ge=0, lt=1)
    eps: float = knob(1e-8, "AdamW's epsilon", gt=0)
    max_grad_norm: float = knob(1.0, "gradients are scaled down to this norm", gt=0)


@dataclass
class AdamWOptimizer(OptimizerConfig):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), fused."""

    name: str = knob("adamw", "the optimiser's name in the registry")


@dataclass
class MuonOptimizer(OptimizerConfig):
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for the rest."""

    name: str = knob("muon", "the optimiser's name in the registry")
    muon_learning_rate: float = knob(0.02, "Muon's peak step size", gt=0)
    momentum: float = knob(0.95, "Muon's momentum", ge=0, lt=1)
    ns_steps: int = knob(5, "Newton-Schulz iterations", gt=0)
