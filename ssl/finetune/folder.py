"""Loads model and tokenizer from a Hugging Face folder: safetensors and JSON only, no custom code, nothing pickled. A
configuration that matches one of our layouts exactly is loaded as that; any other architecture uses transformers'
modules (`TransformersBackbone`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlgym.common.atomic_io import read_json
from rlgym.errors import RequestError
from rlgym.ssl import config as knobs
from rlgym.ssl.data.existing_tokenizer import existing
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.models.build import build_model, model_class
from rlgym.ssl.models.sizes import padded, resolve_model
from rlgym.ssl.models.transformers_model import POSITIONS, ROOM

if TYPE_CHECKING:
    from rlgym.ssl.models.backbone import Backbone

CONFIG = "config.json"
CAUSAL = ("ForCausalLM", "LMHeadModel")
MASKED = ("ForMaskedLM", "ForPreTraining")
LABELLED = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
NO_ARITHMETIC = (
    "architectures", "vocab_size", "dtype", "torch_dtype", "transformers_version", "use_cache", "_name_or_path",
    "id2label", "label2id", "problem_type", "initializer_range", "task_specific_params", "max_window_layers",
    "model_type", "gradient_checkpointing", "auto_map", "tie_encoder_decoder",
)  # fmt: skip
"""Configuration values that do not affect a trained model's outputs, in addition to token ids and summary settings."""


def open_folder(folder: Path) -> tuple[Backbone, Tokenizer, dict[str, Any]]:
    """(model, tokenizer, the model's config). RequestError unless the folder has a language model in safetensors and a
    tokenizer.json."""
    place = f"init_from={folder}"
    values = _configuration(folder, place)
    causal = _direction(values, place)
    tokenizer = _tokenizer(folder, causal, place)
    theirs, state = _read(folder, causal, place)
    own = own_knobs(theirs)
    typed: Any = own or _other_knobs(theirs, folder.name)
    typed.vocab_multiple = max(theirs.vocab_size, tokenizer.vocab_size)
    model = build_model(typed, tokenizer.vocab_size, 0, causal)
    rows = padded(tokenizer.vocab_size, typed)
    state = {name: _grown(tensor, theirs.vocab_size, rows) for name, tensor in state.items()}
    try:
        model.load_transformers(state)
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None
    return model, tokenizer, asdict(typed)


def _configuration(folder: Path, place: str) -> dict[str, Any]:
    try:
        values = read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise RequestError(f"{place}: its {CONFIG} cannot be read ({said})") from None
    if values.get("auto_map"):
        raise RequestError(f"{place}: its {CONFIG} names code of its own to run (auto_map), which is refused")
    if not list(folder.glob("*.safetensors")):
        pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)]
        found = f"{pickled[0]} is pickled, which can run code; " if pickled else ""
        raise RequestError(f"{place}: no weights in safetensors in it; {found}save_pretrained writes them so")
    return values


def _direction(values: Mapping[str, Any], place: str) -> bool:
    """Whether its attention is causal."""
    (name, *_) = values.get("architectures") or [""]
    if name.endswith(CAUSAL):
        return True
    if name.endswith(MASKED):
        return False
    if name.endswith(LABELLED):
        raise RequestError(f"{place}: {name} has a head for labels and none for text; name the run it is an export of")
    raise RequestError(f"{place}: {name or 'its architecture'} is not a language model (ForCausalLM or ForMaskedLM)")


def _tokenizer(folder: Path, causal: bool, place: str) -> Tokenizer:
    try:
        return existing(knobs.ExistingTokenizer(path=str(folder)), causal)
    except RequestError as error:
        raise RequestError(f"{place}: {str(error).split(': ', 1)[-1]}") from None


def _read(folder: Path, causal: bool, place: str) -> tuple[Any, dict[str, Tensor]]:
    """Configuration and weights, under the names of the installed version of transformers."""
    import transformers

    auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    said: Any = transformers.logging
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity(logging.ERROR)
    said.disable_progress_bar()
    try:
        model, facts = auto.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # exceptions depend on the architecture
        raise RequestError(f"{place}: transformers cannot load it ({' '.join(str(error).split())[:200]})") from error
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()
    missing = sorted(facts["missing_keys"])
    if missing:
        raise RequestError(f"{place}: its weights lack {missing[0]} (and {len(missing) - 1:,} more)")
    return model.config, {name: parameter.detach() for name, parameter in model.named_parameters()}


# ---- which layout


def own_knobs(theirs: Any) -> Any:
    """The config of the equivalent own layout, or None."""
    read = {"gpt2": _gpt2, "llama": _llama, "qwen3": _llama, "bert": _bert, "modernbert": _modernbert}
    if theirs.model_type not in read:
        return None
    try:
        found = read[theirs.model_type](theirs)
        resolve_model(found)
    except (AttributeError, TypeError, ValueError, KeyError, RequestError):
        return None
    from transformers import AutoConfig

    with torch.device("meta"):
        model = model_class(found.architecture)(found, theirs.vocab_size, theirs.vocab_size)
    ours = AutoConfig.for_model(**model.configuration()).to_dict()
    wanted = theirs.to_dict()
    for key in ours.keys() | wanted.keys():
        if key in NO_ARITHMETIC or key.endswith("_token_id") or key.startswith(("summary_", "classifier_", "_")):
            continue
        if ours.get(key) != wanted.get(key):
            return None
    return found


def _gpt2(theirs: Any) -> Any:
    return knobs.GPT2Model(
        name="gpt2",
        block_size=theirs.n_positions,
        num_hidden_layers=theirs.n_layer,
        hidden_size=theirs.n_embd,
        num_attention_heads=theirs.n_head,
        intermediate_size=theirs.n_inner or 4 * theirs.n_embd,
        dropout=theirs.resid_pdrop,
    )


def _llama(theirs: Any) -> Any:
    cls = knobs.Qwen3Model if theirs.model_type == "qwen3" else knobs.LlamaModel
    return cls(
        name=theirs.model_type,
        block_size=theirs.max_position_embeddings,
        num_hidden_layers=theirs.num_hidden_layers,
        hidden_size=theirs.hidden_size,
        num_attention_heads=theirs.num_attention_heads,
        num_key_value_heads=theirs.num_key_value_heads,
        intermediate_size=theirs.intermediate_size,
        rope_theta=theirs.rope_parameters["rope_theta"],
        tie_word_embeddings=theirs.tie_word_embeddings,
        dropout=theirs.attention_dropout,
    )


def _bert(theirs: Any) -> Any:
    return knobs.BertModel(
        name="bert",
        block_size=theirs.max_position_embeddings,
        num_hidden_layers=theirs.num_hidden_layers,
        hidden_size=theirs.hidden_size,
        num_attention_heads=theirs.num_attention_heads,
        intermediate_size=theirs.intermediate_size,
        dropout=theirs.hidden_dropout_prob,
    )


def _modernbert(theirs: Any) -> Any:
    kinds = list(theirs.layer_types)
    repeat = kinds.index("full_attention", 1) if "full_attention" in kinds[1:] else len(kinds)
    return knobs.ModernBertModel(
        name="modernbert",
        block_size=theirs.max_position_embeddings,
        num_hidden_layers=theirs.num_hidden_layers,
        hidden_size=theirs.hidden_size,
        num_attention_heads=theirs.num_attention_heads,
        intermediate_size=theirs.intermediate_size,
        local_attention=theirs.local_attention,
        global_attn_every_n_layers=repeat,
        dropout=theirs.attention_dropout,
    )


def _other_knobs(theirs: Any, name: str) -> Any:
    """Config of an architecture on transformers' modules: all values that differ from the defaults."""
    from transformers import AutoConfig

    plain = AutoConfig.for_model(theirs.model_type).to_dict()
    leave = {"architectures", "vocab_size", "dtype", "torch_dtype", "transformers_version", "model_type"}
    values = {key: value for key, value in theirs.to_dict().items() if key in plain and key not in leave}
    changed = {key: value for key, value in values.items() if value != plain[key]}
    places = [value for key in POSITIONS if isinstance(value := getattr(theirs, key, None), int)]
    room = (min(places) if places else 512 + ROOM) - ROOM
    return knobs.TransformersModel(name=name, model_type=theirs.model_type, block_size=room, config=changed)


def _grown(tensor: Tensor, before: int, rows: int) -> Tensor:
    """Extend an embedding from `before` tokens to `rows`; new rows are the mean of the others."""
    if rows == before or tensor.ndim == 0 or tensor.shape[0] != before:
        return tensor
    mean = tensor.mean(0, keepdim=True)
    return torch.cat([tensor, mean.expand(rows - before, *tensor.shape[1:])])
