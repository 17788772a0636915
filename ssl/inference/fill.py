"""`fill RUN text="the [MASK] ..."`: a masked model's guesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.errors import RequestError
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load
from rlgym.ssl.inference.language_model import LanguageModel


def fill(folder: Path, words: dict[str, Any]) -> list[list[tuple[str, float]]]:
    """Print the most likely tokens for each [MASK], then the text with the first of each; returns the guesses."""
    if not words["text"]:
        raise RequestError(f'fill needs text, as in: fill {folder.name} text="the [MASK] of the list"')
    model: LanguageModel = load(Run(folder), words["checkpoint"], words["device"], words["trust"])
    if model.causal:
        raise RequestError(f"{folder} is a next-token model: `generate {folder.name} prompt=...` continues a text")
    guesses = model.fill(words["text"], words["top"])
    for number, found in enumerate(guesses, 1):
        shown = "  ".join(f"{token!r} {share:.1%}" for token, share in found)
        print(f"[MASK] {number}: {shown}")
    print(model.filled(words["text"]))
    return guesses
