"""The table of commands: help line, usage, options and code of each.

Code and options are given by name: `--help` imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

ARCHIVE = "archive"
"""Stands in for a root: a model.zip saved by Stable-Baselines3."""
TRAINING = "[key=value ...] [-m] [--cfg job] [--config-dir DIR]"


RUN = "RUN is a run folder, the short name of one under runs/, or `last`."


class CommandLine:
    """The words of a command line, sorted."""

    def __init__(self) -> None:
        self.command = ""
        """Empty if none was given, which means `train`."""
        self.words: list[str] = []
        self.multirun = self.help = self.version = False
        self.cfg: str | None = None
        self.config_dir: str | None = None


class Code(NamedTuple):
    """The action of a command on a finished run of one kind."""

    options: str
    """The dataclass, in rlgym.config.options, of its `key=value` options."""
    function: str
    """`module:function`, called with the run's folder and the options."""


class Command(NamedTuple):
    summary: str
    usage: str
    handler: str
    """The function in handlers.py that carries it out."""
    options: str = ""
    """The dataclass, in rlgym.config.options, of its options, where all kinds of run share one."""
    code: Mapping[str, Code] = MappingProxyType({})
    """Root of the run, or ARCHIVE -> what is done with it."""
    about: tuple[str, ...] = ()
    """Lines of its help between the summary and the keys."""


COMMANDS = {
    "train": Command("learn from reward (the default command)", f"rlgym [train] {TRAINING}", "train"),
    "pretrain": Command("learn from text: next-token or masked", f"rlgym pretrain {TRAINING}", "train"),
    "finetune": Command(
        "adapt a pretrained model by labels, demonstrations, preferences or reward",
        f"rlgym finetune init_from=RUN {TRAINING}",
        "train",
    ),
    "resume": Command(
        "continue a run from its last checkpoint", "rlgym resume RUN [key=value ...]", "resume", "ResumeOptions"
    ),
    "evaluate": Command(
        "evaluate a run: on fresh episodes, or on held-out and other text",
        "rlgym evaluate RUN [key=value ...]",
        "use",
        code={
            "train": Code("EvaluateOptions", "rlgym.cli.evaluate:evaluate"),
            "pretrain": Code("EvaluateTextOptions", "rlgym.ssl.inference.evaluate:evaluate"),
            "finetune": Code("EvaluateExamplesOptions", "rlgym.ssl.finetune.evaluate:evaluate"),
            ARCHIVE: Code("EvaluateArchiveOptions", "rlgym.agents.sb3.archive:evaluate"),
        },
    ),
    "play": Command(
        "record or show episodes",
        "rlgym play RUN [key=value ...]",
        "use",
        code={
            "train": Code("PlayOptions", "rlgym.cli.play:play"),
            ARCHIVE: Code("PlayArchiveOptions", "rlgym.agents.sb3.archive:play"),
        },
    ),
    "predict": Command(
        "a fine-tuned model's labels or numbers for texts",
        "rlgym predict RUN [key=value ...]",
        "use",
        code={"finetune": Code("PredictOptions", "rlgym.ssl.finetune.predict:predict")},
    ),
    "generate": Command(
        "text from a next-token model",
        "rlgym generate RUN [key=value ...]",
        "use",
        code=dict.fromkeys(("pretrain", "finetune"), Code("GenerateOptions", "rlgym.ssl.inference.generate:generate")),
    ),
    "fill": Command(
        "a masked model's guesses for [MASK]",
        "rlgym fill RUN [key=value ...]",
        "use",
        code={"pretrain": Code("FillOptions", "rlgym.ssl.inference.fill:fill")},
    ),
    "export": Command(
        "a policy as ONNX and torch.export, a language model as transformers loads it",
        "rlgym export RUN [key=value ...]",
        "use",
        code={
            "train": Code("ExportOptions", "rlgym.agents.export.policy:export"),
            "pretrain": Code("ExportOptions", "rlgym.ssl.inference.export:export"),
            "finetune": Code("ExportAdaptedOptions", "rlgym.ssl.finetune.export:export"),
        },
    ),
    "runs": Command("list the runs of a folder", "rlgym runs [FOLDER] [key=value ...]", "runs", "RunsOptions"),
    "compare": Command(
        "agents over seeds, with intervals and significance",
        "rlgym compare [RUN ...] [key=value ...]",
        "compare",
        "CompareOptions",
        about=(
            "RUN is a run folder, a folder of runs, a glob, or part of the names of some under runs/; none: all of "
            "runs/.",
            "Writes comparison.md, comparison.json, curves.png and summary.png. How to read them: docs/statistics.md.",
        ),
    ),
    "sweep": Command(
        "search for better hyper-parameters (Optuna)",
        "rlgym sweep [FOLDER] [key=value ...] [--config-dir DIR]",
        "sweep",
        "SweepOptions",
        about=(
            "Any other word is as in train. Keys given as ranges are searched, in quotes because of the shell:",
            "  'agent.learning_rate=tag(log,interval(1e-4,1e-2))'",
            "  'agent.n_steps=choice(32,64,128)' 'agent.n_epochs=range(1,6)'",
            "Without any, what conf/search/ says of the agent. FOLDER is a sweep to go on with. More: docs/sweep.md.",
        ),
    ),
    "rerun": Command(
        "train again from a run's config; any key of its command but the groups replaces the run's",
        "rlgym rerun RUN [key=value ...] [--cfg job]",
        "rerun",
        "RerunOptions",
    ),
}


def option_classes(name: str) -> list[type]:
    """The dataclasses of a command's options, one for each kind of run that has its own."""
    command = COMMANDS[name]
    return [options_of(code) for code in command.code.values()] + ([options_of(command)] if command.options else [])


def options_of(command: Command | Code) -> type:
    """The dataclass of its options."""
    from rlgym.config import options

    found: type = getattr(options, command.options)
    return found
