"""`generate RUN prompt=...`: text from a next-token model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.config.memory import require_memory
from rlgym.config.sizes import sizes_named
from rlgym.errors import RequestError
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load
from rlgym.ssl.inference.language_model import LanguageModel


def generate(folder: Path, words: dict[str, Any]) -> list[str]:
    """Print and return `samples` texts that begin with the prompt."""
    model: LanguageModel = load(Run(folder), words["checkpoint"], words["device"], words["trust"])
    if not isinstance(model, LanguageModel):
        raise RequestError(f"{folder} does not generate text; `predict` gives its outputs for texts")
    if not model.causal:
        raise RequestError(f"{folder} is a masked model; `fill {folder.name} text=...` predicts its [MASK] tokens")
    length = len(words["prompt"]) + min(words["tokens"], model.model.block_size)
    with sizes_named(words):
        require_memory(words["samples"] * (200.0 + 8.0 * length))  # the token lists, without the model's cache
        prompts = [words["prompt"]] * words["samples"]
        drawn = (words[key] for key in ("tokens", "temperature", "top_k", "top_p", "seed"))
        new = model.generate(prompts, *drawn)
    texts = [prompt + text for prompt, text in zip(prompts, new, strict=True)]
    for number, text in enumerate(texts, 1):
        if len(texts) > 1:
            print(f"--- {number}")
        print(text)
    return texts
