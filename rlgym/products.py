"""What can be done with a finished run: which command, for a run of which root, takes which words and is whose code."""

from __future__ import annotations

from dataclasses import dataclass

from rlgym.words import EvaluateTextWords, EvaluateWords, ExportWords, FillWords, GenerateWords, PlayWords


@dataclass(frozen=True)
class Product:
    words: type
    """The dataclass of its `key=value` words."""
    function: str
    """`module:function`, called with the run's folder and the words."""


PRODUCTS: dict[str, dict[str, Product]] = {
    "evaluate": {
        "train": Product(EvaluateWords, "rlgym.evaluate:evaluate"),
        "pretrain": Product(EvaluateTextWords, "rlgym.ssl.evaluate:evaluate"),
    },
    "play": {"train": Product(PlayWords, "rlgym.play:play")},
    "generate": {"pretrain": Product(GenerateWords, "rlgym.ssl.generate:generate")},
    "fill": {"pretrain": Product(FillWords, "rlgym.ssl.fill:fill")},
    "export": {"pretrain": Product(ExportWords, "rlgym.ssl.export:export")},
}
"""Command -> root of the run -> product."""
