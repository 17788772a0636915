"""The knobs of fine-tuning's methods and rewards. Free of torch: help reads it."""

from __future__ import annotations

from dataclasses import dataclass

from rlgym.config import knob


@dataclass
class MethodConfig:
    """What every method of labelled or written examples can be asked for."""

    epochs: float = knob(3.0, "passes over the training examples, where tokens= sets no budget", gt=0)
    max_length: int | None = knob(None, "tokens of an example at most; empty: the model's block", gt=1)
    held_out: float = knob(0.2, "share of the examples that are held out, duplicates on one side", gt=0, lt=1)


@dataclass
class ClassificationMethod(MethodConfig):
    """A label for each text."""

    name: str = knob("classification", "the method's name in the registry")
    text: str = knob("", "column of the text; empty: found by its name or content")
    label: str = knob("", "column of the label; empty: found by its name or content")
    pooling: str = knob(
        "mean",
        "what the head reads: the mean of the hidden states, the first (cls) or the last",
        choices=("mean", "cls", "last"),
    )
    class_weights: bool = knob(False, "weigh each class by the inverse of its share")
    focal_gamma: float = knob(0.0, "focal loss: how much sure and right examples count less (0: cross-entropy)", ge=0)
    label_smoothing: float = knob(0.0, "share of the probability given to all other labels", ge=0, lt=1)
    baselines: bool = knob(True, "fit the cheap baselines on the same split, and say whether the network is better")


@dataclass
class DefaultReward:
    """The method's own."""

    name: str = knob("default", "the reward's name in the registry")
