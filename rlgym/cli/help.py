"""The help texts, from the dataclasses and the conf tree: free of Hydra, Gymnasium and torch, so that it is instant."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from textwrap import wrap
from typing import Any, get_type_hints

from rlgym import __version__
from rlgym.cli.commands import ARCHIVE, PRODUCTS
from rlgym.config.built_in import BUILT_IN
from rlgym.config.groups import GROUPS, SET_BY, SUMMARIES, choices
from rlgym.config.options import CompareWords, RerunWords, ResumeWords, RunsWords, SweepWords
from rlgym.config.registry import config_of, entries
from rlgym.config.schema import ROOTS

Row = tuple[str, str]

COMMANDS = {
    "train": "learn from reward (the default command)",
    "pretrain": "learn from text: next-token or masked",
    "finetune": "adapt a pretrained model by labels, demonstrations, preferences or reward",
    "resume": "continue a run from its last checkpoint",
    "evaluate": "judge a run: fresh episodes, or held-out and other text",
    "play": "record or show episodes",
    "predict": "a fine-tuned model's labels or numbers for texts",
    "generate": "text from a next-token model",
    "fill": "a masked model's guesses for [MASK]",
    "export": "a policy as ONNX and torch.export, a language model as transformers loads it",
    "runs": "list the runs of a folder",
    "compare": "agents over seeds, with intervals: is the difference real?",
    "sweep": "search for better hyper-parameters (Optuna)",
    "rerun": "train again from a run's config",
}
WORDS = {
    "resume": ResumeWords,
    "runs": RunsWords,
    "compare": CompareWords,
    "sweep": SweepWords,
    "rerun": RerunWords,
}
USAGE = {
    "train": "rlgym [train] [key=value ...] [-m] [--cfg job] [--config-dir DIR]",
    "resume": "rlgym resume RUN [key=value ...]",
    "pretrain": "rlgym pretrain [key=value ...] [-m] [--cfg job] [--config-dir DIR]",
    "finetune": "rlgym finetune init_from=RUN [key=value ...] [-m] [--cfg job] [--config-dir DIR]",
    **{name: f"rlgym {name} RUN [key=value ...]" for name in PRODUCTS},
    "runs": "rlgym runs [FOLDER] [key=value ...]",
    "compare": "rlgym compare [RUN ...] [key=value ...]",
    "sweep": "rlgym sweep [FOLDER] [key=value ...] [--config-dir DIR]",
    "rerun": "rlgym rerun RUN [key=value ...] [--cfg job]",
}
RUN = "RUN is a run folder, the short name of one under runs/, or `last`."
FLAGS = [
    (
        "-m, --multirun",
        "every combination of comma lists (seed=1,2,3) and ranges (seed=range(1,4)); jobs=2: two at a time",
    ),
    ("-c job, --cfg job", "print the config that would train, and write nothing"),
    ("--config-dir DIR", "a folder of your own agent/, env/, model/, data/, experiment/, ... files"),
    ("-h, --help", "this help; COMMAND --help for that of a command"),
    ("--version", "the version"),
]
ABOUT = {
    "compare": [
        "RUN is a run folder, a folder of runs, a glob, or part of the names of some under runs/; none: all of runs/.",
        "Writes comparison.md, comparison.json, curves.png and summary.png. How to read them: docs/statistics.md.",
    ],
    "sweep": [
        "Any other word is as in train. Keys given as ranges are searched, in quotes because of the shell:",
        "  'agent.learning_rate=tag(log,interval(1e-4,1e-2))'",
        "  'agent.n_steps=choice(32,64,128)' 'agent.n_epochs=range(1,6)'",
        "Without any, what conf/search/ says of the agent. FOLDER is a sweep to go on with. More: docs/sweep.md.",
    ],
}
"""Lines of a command's help between its summary and its keys."""
EXAMPLES = [
    "rlgym                                             PPO on CartPole-v1",
    "rlgym agent=ppo env=LunarLander-v3 seed=3 steps=1e6",
    "rlgym -m env=CartPole-v1,Acrobot-v1 seed=1,2,3 jobs=2    six runs, two at a time",
    "rlgym compare                                     which agent is better, and is that real?",
    "rlgym sweep env=CartPole-v1 trials=50             better values, into a tuned file",
    "rlgym evaluate last episodes=100",
    "rlgym pretrain                                    a small model of Python's own source",
    "rlgym pretrain data=text data.path=corpus.txt model=gpt_mini",
    'rlgym generate last prompt="def "',
]


def overview(config_dir: str | None = None) -> str:
    """`rlgym --help`."""
    lines = [f"rlgym {__version__}: one gym for learning by reward and by predicting one's own data", ""]
    lines += ["usage: rlgym [COMMAND] [key=value ...]     (or: python -m rlgym ...)", ""]
    lines += ["commands (COMMAND --help for their keys)", *_rows(list(COMMANDS.items())), ""]
    lines += _groups("train", config_dir)
    lines += ["options", *_rows(FLAGS), "", "examples", *(f"  {line}" for line in EXAMPLES), ""]
    lines += ["every key with its default: rlgym train --help, rlgym pretrain --help, rlgym finetune --help"]
    return "\n".join(lines)


def command(name: str, config_dir: str | None = None, chosen: Mapping[str, str] | None = None) -> str:
    """`rlgym COMMAND --help`; of a training command, with the knobs of what is `chosen`, or of all built-in choices."""
    lines = [f"usage: {USAGE[name]}", "", COMMANDS[name], ""]
    if name in ROOTS:
        lines += _groups(name, config_dir)
        trust = ("trust=false", "import the code that the configs of runs it begins with or plays against name")
        lines += ["keys", *_rows([*_keys(ROOTS[name]), trust]), ""]
        for group in ROOTS[name].sections:
            known, wanted = entries(group), (chosen or {}).get(group, "")
            for entry in [known[wanted]] if wanted in known else BUILT_IN[group]:
                rows = list(_keys(config_of(entry), f"{group}."))
                lines += [f"keys of {group}={entry.name}", *_rows(rows), ""]
        lines += ["options", *_rows(FLAGS)]
        return "\n".join(lines)
    lines += [*ABOUT[name], ""] if name in ABOUT else []
    if name == "rerun":
        lines[2] += "; any key of its command but the groups replaces the run's"
    lines += [RUN, ""] if "RUN" in USAGE[name] and name not in ABOUT else []
    tables = {root: product.words for root, product in PRODUCTS[name].items()} if name in PRODUCTS else {}
    for root, words in tables.items():
        kind = "a model.zip that Stable-Baselines3 saved" if root == ARCHIVE else f"a run of {root}"
        lines += [f"keys for {kind}", *_rows(list(_keys(words))), ""]
    if not tables:
        lines += ["keys", *_rows(list(_keys(WORDS[name])))]
    return "\n".join(lines).rstrip()


def all_words(name: str) -> set[str]:
    """Every key that a command on a run takes, for whichever kind of run."""
    classes = [product.words for product in PRODUCTS[name].values()] if name in PRODUCTS else [WORDS[name]]
    return {f.name for cls in classes for f in fields(cls)}


def _groups(root: str, config_dir: str | None) -> list[str]:
    lines = []
    for group in GROUPS[root]:
        found = choices(root, group, config_dir)
        lines += [f"{group}=: {SUMMARIES[group]}"]
        lines += [*_rows([(f"{group}={name}", text) for name, text in found.items()]), ""]
    return lines


def _keys(cls: type, path: str = "") -> Iterator[Row]:
    hints = get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            yield from _keys(hints[f.name], f"{path}{f.name}.")
        elif hints[f.name] is not Any and (path + f.name) not in SET_BY:  # set by the groups
            yield f"{path}{f.name}={_default(f)}", f.metadata.get("help", "") + _bounds(f.metadata)


def _default(f: Field[Any]) -> str:
    value = f.default if f.default is not MISSING else f.default_factory() if f.default_factory is not MISSING else ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return str(value).replace(" ", "")
    return "" if value is None else str(value)


def _bounds(metadata: Any) -> str:
    if metadata.get("choices"):
        return f" ({', '.join(metadata['choices'])})"
    signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
    bounds = [f"{sign}{metadata[name]}" for name, sign in signs if metadata.get(name) is not None]
    return f" ({', '.join(bounds)})" if bounds else ""


def _rows(rows: list[Row]) -> list[str]:
    """Two columns, the second wrapped to the terminal's width."""
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    left = min(32, max((len(name) for name, _ in rows), default=0)) + 2
    lines = []
    for name, text in rows:
        first, *rest = wrap(text, width - left - 2) or [""]
        if len(name) >= left:
            lines.append(f"  {name}")
            name = ""
        lines += [f"  {name:<{left}}{first}".rstrip(), *(f"  {'':<{left}}{line}" for line in rest)]
    return lines
