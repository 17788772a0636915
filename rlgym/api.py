"""The Python API: `rlgym.train`, `rlgym.pretrain`, `rlgym.finetune` and `rlgym.load`."""

from __future__ import annotations

from rlgym.config.compose import compose
from rlgym.errors import TrainingError
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load
from rlgym.training.train import run_training

__all__ = ["finetune", "load", "pretrain", "train"]


def train(*words: str) -> Run:
    """Train with the arguments of the command line, `train("agent=ppo", "env=CartPole-v1")`; returns the finished run.

    Raises RequestError when the request is wrong and TrainingError when training failed.
    """
    return _train("train", list(words))


def pretrain(*words: str) -> Run:
    """Pretrain on text with the arguments of the command line, `pretrain("model=gpt_mini")`; see `train`."""
    return _train("pretrain", list(words))


def finetune(*words: str) -> Run:
    """Fine-tune a pretrained model with the arguments of the command line, `finetune("init_from=last")`; see
    `train`."""
    return _train("finetune", list(words))


def _train(root: str, words: list[str]) -> Run:
    return run_training(compose(words, root), ["rlgym", root, *words], fail=_raise)


def _raise(error: TrainingError) -> None:
    raise error
