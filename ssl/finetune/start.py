"""Where fine-tuning starts: the model and tokenizer of a finished run, or of a Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rlgym.config import PretrainConfig
from rlgym.config_file import config_class, load_config
from rlgym.errors import RequestError
from rlgym.loading import open_checkpoint
from rlgym.run import Run, find_run
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.language_model import load_weights
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.build import build_model
from rlgym.state import load_module
from rlgym.typed import build, to_dict

BACKBONE = "backbone."
"""What the names of the language model's parameters begin with in a fine-tuned model."""


@dataclass
class Start:
    model: Backbone
    tokenizer: Tokenizer
    knobs: dict[str, Any]
    """The model's knobs as plain data, from which `rebuild` makes it again."""
    parent: dict[str, Any]
    """Lineage for the manifest: {"run" or "folder", "step", "data": the parent's data facts, "parent": its own}."""


def open_start(init_from: str, seed: int, trust: bool = False) -> Start:
    """RequestError where `init_from` names neither a run that learned from text nor a Hugging Face folder."""
    if not init_from:
        raise RequestError("init_from is empty: name a run of pretrain (a folder, a short name, last), or a folder")
    return _of_run(find_run(init_from), trust)


def _of_run(run: Run, trust: bool) -> Start:
    config = load_config(run.dir, trust=trust)
    if config.root == "train":
        raise RequestError(
            f"init_from={run.dir}: a run of train has no language model; name one of pretrain or finetune"
        )
    state, _ = open_checkpoint(run, "best")
    knobs: dict[str, Any]
    weights = load_weights(config, state) if isinstance(config, PretrainConfig) else language_weights(state["model"])
    if isinstance(config, PretrainConfig):
        knobs, causal = to_dict(config.model), config.objective.name != "masked"
    else:
        knobs, causal = config.model, config.causal
    tokenizer = Tokenizer.of_run(run.dir)
    model = rebuild(knobs, causal, tokenizer, config.seed)
    load_module(model, weights)
    manifest = run.manifest
    parent = {"run": run.name} | {name: manifest[name] for name in ("data", "parent") if name in manifest}
    return Start(model, tokenizer, knobs, parent)


def rebuild(knobs: dict[str, Any], causal: bool, tokenizer: Tokenizer, seed: int) -> Backbone:
    """The model of these knobs, freshly initialised; whoever rebuilds one loads its weights."""
    typed: Any = build(config_class("model", str(knobs["architecture"]), "architecture"), knobs, "model")
    return build_model(typed, tokenizer.vocab_size, seed, causal)


def language_weights(weights: Any) -> dict[str, torch.Tensor]:
    """The language model's part of a fine-tuned model's weights, by its own names."""
    return {name.removeprefix(BACKBONE): tensor for name, tensor in weights.items() if name.startswith(BACKBONE)}
