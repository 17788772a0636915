"""Tiny Hugging Face folders, as a person brings them: weights that make each token count, tokenizers of all habits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.ssl import tiny

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(template: str | None, specials: dict[str, str], extra: tuple[str, ...] = ()) -> Any:
    """Byte-level BPE on the sentences of `tiny`; `template`: what its post-processor puts around a text."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokens = [*dict.fromkeys(specials.values()), *extra]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(tiny.sentences(60, seed=3).splitlines(), trainer)
    if template:
        ids = [(token, backend.token_to_id(token)) for token in tokens]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, **specials)


LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.6,
}


def save(folder: Path, config: Any, words: Any, masked: bool = False) -> Path:
    """The model of a configuration of transformers, its weights drawn anew, with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    torch.manual_seed(0)
    auto: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def llama(folder: Path) -> Path:
    """Documents begin with <s> and end with </s>."""
    from transformers import LlamaConfig

    words = tokenizer("<s> $A", LLAMA)
    return save(folder, LlamaConfig(vocab_size=len(words), bos_token_id=1, eos_token_id=2, **SHAPE), words)


def chat(folder: Path) -> Path:
    """A chat model with a template of its own, whose answers end with a token that is not the end of text."""
    from transformers import GenerationConfig, LlamaConfig

    words = tokenizer("<s> $A", LLAMA, ("<|im_start|>", "<|im_end|>"))
    words.chat_template = CHATML
    save(folder, LlamaConfig(vocab_size=len(words), bos_token_id=1, eos_token_id=2, **SHAPE), words)
    stops: Any = GenerationConfig
    stops(bos_token_id=1, eos_token_id=[2, words.convert_tokens_to_ids("<|im_end|>")]).save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    """BERT as published, with pieces of words that go on in ##."""
    from transformers import BertConfig

    words = pieces()
    shape = {**SHAPE, "initializer_range": 0.2}
    return save(folder, BertConfig(vocab_size=len(words), pad_token_id=words.pad_token_id, **shape), words, masked=True)


def pieces() -> Any:
    """A WordPiece tokenizer in lower case."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    roles = {role: f"[{role.removesuffix('_token').upper()}]" for role in ("pad_token", "unk_token", "cls_token")}
    roles |= {"sep_token": "[SEP]", "mask_token": "[MASK]"}
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=[*roles.values()], show_progress=False)
    backend.train_from_iterator(tiny.sentences(60, seed=3).splitlines(), trainer)
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, **roles)


def other(folder: Path, kind: str) -> Path:
    """An architecture that has no layout here: GPT-2 with another activation, OPT, or RoBERTa."""
    from transformers import AutoConfig

    if kind == "roberta":
        roles = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        words = tokenizer("<s> $A </s>", roles | {"mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"})
        ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        shape = {**SHAPE, "max_position_embeddings": 66, "initializer_range": 0.2}
        return save(folder, AutoConfig.for_model(kind, vocab_size=len(words), **ids, **shape), words, masked=True)
    words = tokenizer(None, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    if kind == "gpt2":
        shape = {"n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "initializer_range": 0.2}
    else:
        shape = {**SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 32}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return save(folder, AutoConfig.for_model(kind, vocab_size=len(words), **ids, **shape), words)
