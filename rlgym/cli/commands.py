"""The table of commands: the help line, the usage, the options and the code of each. Free of torch: help reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlgym.config.options import (
    CompareOptions,
    EvaluateArchiveOptions,
    EvaluateExamplesOptions,
    EvaluateOptions,
    EvaluateTextOptions,
    ExportAdaptedOptions,
    ExportOptions,
    FillOptions,
    GenerateOptions,
    PlayArchiveOptions,
    PlayOptions,
    PredictOptions,
    RerunOptions,
    ResumeOptions,
    RunsOptions,
    SweepOptions,
)

ARCHIVE = "archive"
"""In place of a root: a model.zip that Stable-Baselines3 saved."""
TRAINING = "[key=value ...] [-m] [--cfg job] [--config-dir DIR]"


@dataclass(frozen=True)
class Code:
    """What a command does with a finished run of one kind."""

    options: type
    """The dataclass of its `key=value` options."""
    function: str
    """`module:function`, called with the run's folder and the options."""


@dataclass(frozen=True)
class Command:
    summary: str
    usage: str
    handler: str
    """The function in handlers.py that carries it out."""
    options: type | None = None
    """The dataclass of its options, where there is one for all runs."""
    code: dict[str, Code] = field(default_factory=dict)
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
        "continue a run from its last checkpoint", "rlgym resume RUN [key=value ...]", "resume", ResumeOptions
    ),
    "evaluate": Command(
        "evaluate a run: on fresh episodes, or on held-out and other text",
        "rlgym evaluate RUN [key=value ...]",
        "use",
        code={
            "train": Code(EvaluateOptions, "rlgym.cli.evaluate:evaluate"),
            "pretrain": Code(EvaluateTextOptions, "rlgym.ssl.inference.evaluate:evaluate"),
            "finetune": Code(EvaluateExamplesOptions, "rlgym.ssl.finetune.evaluate:evaluate"),
            ARCHIVE: Code(EvaluateArchiveOptions, "rlgym.agents.sb3.archive:evaluate"),
        },
    ),
    "play": Command(
        "record or show episodes",
        "rlgym play RUN [key=value ...]",
        "use",
        code={
            "train": Code(PlayOptions, "rlgym.cli.play:play"),
            ARCHIVE: Code(PlayArchiveOptions, "rlgym.agents.sb3.archive:play"),
        },
    ),
    "predict": Command(
        "a fine-tuned model's labels or numbers for texts",
        "rlgym predict RUN [key=value ...]",
        "use",
        code={"finetune": Code(PredictOptions, "rlgym.ssl.finetune.predict:predict")},
    ),
    "generate": Command(
        "text from a next-token model",
        "rlgym generate RUN [key=value ...]",
        "use",
        code=dict.fromkeys(("pretrain", "finetune"), Code(GenerateOptions, "rlgym.ssl.inference.generate:generate")),
    ),
    "fill": Command(
        "a masked model's guesses for [MASK]",
        "rlgym fill RUN [key=value ...]",
        "use",
        code={"pretrain": Code(FillOptions, "rlgym.ssl.inference.fill:fill")},
    ),
    "export": Command(
        "a policy as ONNX and torch.export, a language model as transformers loads it",
        "rlgym export RUN [key=value ...]",
        "use",
        code={
            "train": Code(ExportOptions, "rlgym.agents.export.policy:export"),
            "pretrain": Code(ExportOptions, "rlgym.ssl.inference.export:export"),
            "finetune": Code(ExportAdaptedOptions, "rlgym.ssl.finetune.export:export"),
        },
    ),
    "runs": Command("list the runs of a folder", "rlgym runs [FOLDER] [key=value ...]", "runs", RunsOptions),
    "compare": Command(
        "agents over seeds, with intervals: is the difference real?",
        "rlgym compare [RUN ...] [key=value ...]",
        "compare",
        CompareOptions,
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
        SweepOptions,
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
        RerunOptions,
    ),
}


def option_classes(name: str) -> list[type]:
    """The dataclasses of a command's options, one for each kind of run that has its own."""
    command = COMMANDS[name]
    return [code.options for code in command.code.values()] + ([command.options] if command.options else [])
