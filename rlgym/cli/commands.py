"""What can be done with a finished run: which command, for a run of which root, takes which words and is whose code."""

from __future__ import annotations

from dataclasses import dataclass

from rlgym.config.options import (
    EvaluateArchiveWords,
    EvaluateExamplesWords,
    EvaluateTextWords,
    EvaluateWords,
    ExportAdaptedWords,
    ExportWords,
    FillWords,
    GenerateWords,
    PlayArchiveWords,
    PlayWords,
    PredictWords,
)

ARCHIVE = "archive"
"""In place of a root: a model.zip that Stable-Baselines3 saved."""


@dataclass(frozen=True)
class Product:
    words: type
    """The dataclass of its `key=value` words."""
    function: str
    """`module:function`, called with the run's folder and the words."""


PRODUCTS: dict[str, dict[str, Product]] = {
    "evaluate": {
        "train": Product(EvaluateWords, "rlgym.cli.evaluate:evaluate"),
        "pretrain": Product(EvaluateTextWords, "rlgym.ssl.inference.evaluate:evaluate"),
        "finetune": Product(EvaluateExamplesWords, "rlgym.ssl.finetune.evaluate:evaluate"),
        ARCHIVE: Product(EvaluateArchiveWords, "rlgym.agents.sb3.archive:evaluate"),
    },
    "play": {
        "train": Product(PlayWords, "rlgym.cli.play:play"),
        ARCHIVE: Product(PlayArchiveWords, "rlgym.agents.sb3.archive:play"),
    },
    "predict": {"finetune": Product(PredictWords, "rlgym.ssl.finetune.predict:predict")},
    "generate": {
        "pretrain": Product(GenerateWords, "rlgym.ssl.inference.generate:generate"),
        "finetune": Product(GenerateWords, "rlgym.ssl.inference.generate:generate"),
    },
    "fill": {"pretrain": Product(FillWords, "rlgym.ssl.inference.fill:fill")},
    "export": {
        "train": Product(ExportWords, "rlgym.agents.export.policy:export"),
        "pretrain": Product(ExportWords, "rlgym.ssl.inference.export:export"),
        "finetune": Product(ExportAdaptedWords, "rlgym.ssl.finetune.export:export"),
    },
}
"""Command -> root of the run, or ARCHIVE -> product."""
