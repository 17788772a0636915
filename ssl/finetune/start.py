"""Opens the initial model and tokenizer of fine-tuning: a finished run, or a Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlgym.config.io import config_class
from rlgym.config.parser import build, to_dict
from rlgym.config.schema import FinetuneConfig, PretrainConfig
from rlgym.errors import RequestError
from rlgym.run_folder.checkpoint import fitting, position
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run, find_run, is_run
from rlgym.run_folder.loading import open_checkpoint
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.finetune.adapt import add_lora, merge_lora
from rlgym.ssl.finetune.folder import CONFIG, open_folder
from rlgym.ssl.inference.language_model import load_weights
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.build import build_model
from rlgym.training.load_module import load_finite

BACKBONE = "backbone."
"""Prefix of the language model's parameters in a fine-tuned model."""


@dataclass
class Start:
    model: Backbone
    tokenizer: Tokenizer
    knobs: dict[str, Any]
    """The model's config as plain data, for `rebuild`."""
    parent: dict[str, Any]
    """Lineage for the manifest: {"run" or "folder", "dir", "root", "step", "data": the parent's data facts, "parent":
    its own}."""
    chat: bool = False
    """Whether it is a chat model or has a chat template."""


def open_start(init_from: str, seed: int, trust: bool = False) -> Start:
    """Open `init_from`. RequestError unless it is a run trained on text or a Hugging Face folder."""
    if not init_from:
        raise RequestError("init_from is empty: name a run of pretrain (a folder, a short name, last), or a folder")
    path = Path(init_from).expanduser()
    if (path / CONFIG).is_file() and not is_run(path):
        model, tokenizer, knobs = open_folder(path)
        parent = {"folder": str(path.resolve()), "root": "folder"}
        return Start(model, tokenizer, knobs, parent, tokenizer.chat_template is not None)
    return _of_run(find_run(init_from), trust)


def _of_run(run: Run, trust: bool) -> Start:
    config = load_config(run.dir, trust=trust)
    if config.root == "train":
        raise RequestError(
            f"init_from={run.dir}: a run of train has no language model; name one of pretrain or finetune"
        )
    state, _ = open_checkpoint(run, "best")
    step, _ = position(state, run.dir)
    tokenizer = Tokenizer.of_run(run.dir)
    knobs: dict[str, Any]
    chat = False
    with fitting(run.dir):
        if isinstance(config, PretrainConfig):
            knobs = to_dict(config.model)
            model = rebuild(knobs, config.is_causal, tokenizer, config.seed)
            load_finite(model, load_weights(config, state))
        else:
            knobs = config.model
            model = language_part(config, state["model"], tokenizer)
            chat = any(getattr(config.method, key, None) for key in ("messages", "chat"))
    manifest = run.manifest
    parent = {"run": run.name, "dir": str(run.dir.resolve()), "root": config.root, "step": step}
    parent |= {name: manifest[name] for name in ("data", "parent") if name in manifest}
    return Start(model, tokenizer, knobs, parent, chat)


def fresh(start: Start, seed: int) -> Start:
    """The same shape and tokenizer with freshly initialised weights."""
    model = rebuild(start.knobs, start.model.causal, start.tokenizer, seed)
    return replace(start, model=model, parent=start.parent | {"weights": "random"})


def language_part(config: FinetuneConfig, weights: Any, tokenizer: Tokenizer, merged: bool = True) -> Backbone:
    """The language model of a fine-tuned run, from the `model` section of its checkpoint. LoRA weights are merged into
    their matrices unless `merged` is false."""
    assert config.causal is not None
    model = rebuild(config.model, config.causal, tokenizer, config.seed)
    if config.adapt.mode == "lora":
        add_lora(model, config.adapt, config.seed)
    load_finite(model, language_weights(weights))
    if config.adapt.mode == "lora" and merged:
        merge_lora(model)
    return model


def rebuild(knobs: dict[str, Any], causal: bool, tokenizer: Tokenizer, seed: int) -> Backbone:
    """Build the model of a config, freshly initialised; the caller loads its weights."""
    typed: Any = build(config_class("model", str(knobs["architecture"]), "architecture"), knobs, "model")
    return build_model(typed, tokenizer.vocab_size, seed, causal)


def language_weights(weights: Any) -> dict[str, torch.Tensor]:
    """The language model's part of a fine-tuned model's weights, under its own names."""
    return {name.removeprefix(BACKBONE): tensor for name, tensor in weights.items() if name.startswith(BACKBONE)}
