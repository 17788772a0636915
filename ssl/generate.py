"""`generate RUN prompt=...`: text from a next-token model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.errors import RequestError
from rlgym.loading import load
from rlgym.run import Run
from rlgym.ssl.language_model import LanguageModel


def generate(folder: Path, words: dict[str, Any]) -> list[str]:
    """Print `samples` texts that begin with the prompt, and return them."""
    model: LanguageModel = load(Run(folder), words["checkpoint"], words["device"], words["trust"])
    if not isinstance(model, LanguageModel):
        raise RequestError(f"{folder} does not write text: predict has what it says of texts")
    if not model.causal:
        raise RequestError(f"{folder} is a masked model: `fill {folder.name} text=...` has its guesses for [MASK]")
    prompts = [words["prompt"]] * words["samples"]
    new = model.generate(prompts, words["tokens"], words["temperature"], words["top_k"], words["top_p"], words["seed"])
    texts = [prompt + text for prompt, text in zip(prompts, new, strict=True)]
    for number, text in enumerate(texts, 1):
        if len(texts) > 1:
            print(f"--- {number}")
        print(text)
    return texts
