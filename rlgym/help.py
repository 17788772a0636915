"""The help texts, from the dataclasses and the conf tree: free of Hydra, Gymnasium and torch, so that it is instant."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from textwrap import wrap
from typing import Any, get_type_hints

from rlgym import __version__
from rlgym.config import TrainConfig
from rlgym.groups import GROUPS, SUMMARIES, choices
from rlgym.registry import BUILT_IN, agents, resolve
from rlgym.words import EvaluateWords, PlayWords, RerunWords, ResumeWords, RunsWords

Row = tuple[str, str]

COMMANDS = {
    "train": "learn from reward (the default command)",
    "resume": "continue a run from its last checkpoint",
    "evaluate": "play fresh episodes and write their returns",
    "play": "record or show episodes",
    "runs": "list the runs of a folder",
    "rerun": "train again from a run's config",
}
WORDS = {
    "resume": ResumeWords,
    "evaluate": EvaluateWords,
    "play": PlayWords,
    "runs": RunsWords,
    "rerun": RerunWords,
}
USAGE = {
    "train": "rlgym [train] [key=value ...] [-m] [--cfg job] [--config-dir DIR]",
    "resume": "rlgym resume RUN [key=value ...]",
    "evaluate": "rlgym evaluate RUN [key=value ...]",
    "play": "rlgym play RUN [key=value ...]",
    "runs": "rlgym runs [FOLDER] [key=value ...]",
    "rerun": "rlgym rerun RUN [key=value ...] [--cfg job]",
}
RUN = "RUN is a run folder, the short name of one under runs/, or `last`."
FLAGS = [
    ("-m, --multirun", "a sweep: every combination of comma lists (seed=1,2,3) and ranges (seed=range(1,4))"),
    ("-c job, --cfg job", "print the config that would train, and write nothing"),
    ("--config-dir DIR", "a folder of your own agent/, env/, tuned/, experiment/ files"),
    ("-h, --help", "this help; COMMAND --help for that of a command"),
    ("--version", "the version"),
]
EXAMPLES = [
    "rlgym                                             PPO on CartPole-v1",
    "rlgym agent=ppo env=LunarLander-v3 seed=3 steps=1e6",
    "rlgym -m env=CartPole-v1,Acrobot-v1 seed=1,2,3    a sweep of six runs",
    "rlgym evaluate last episodes=100",
]


def overview(config_dir: str | None = None) -> str:
    """`rlgym --help`."""
    lines = [f"rlgym {__version__}: one gym for learning by reward and by predicting one's own data", ""]
    lines += ["usage: rlgym [COMMAND] [key=value ...]     (or: python -m rlgym ...)", ""]
    lines += ["commands (COMMAND --help for their keys)", *_rows(list(COMMANDS.items())), ""]
    lines += _groups("train", config_dir)
    lines += ["options", *_rows(FLAGS), "", "examples", *(f"  {line}" for line in EXAMPLES), ""]
    lines += ["every key with its default: rlgym train --help"]
    return "\n".join(lines)


def command(name: str, config_dir: str | None = None, chosen_agent: str | None = None) -> str:
    """`rlgym COMMAND --help`; of `train`, with the knobs of the agent chosen, or of every built-in one."""
    lines = [f"usage: {USAGE[name]}", "", COMMANDS[name], ""]
    if name == "train":
        lines += _groups(name, config_dir)
        lines += ["keys", *_rows(list(_keys(TrainConfig))), ""]
        known = agents()
        for entry in [known[chosen_agent]] if chosen_agent in known else BUILT_IN:
            lines += [f"keys of agent={entry.name}", *_rows(list(_keys(resolve(entry.config), "agent."))), ""]
        lines += ["options", *_rows(FLAGS)]
        return "\n".join(lines)
    if name == "rerun":
        lines[2] += "; any key of `train` but its groups replaces the run's"
    lines += [RUN, ""] if "RUN" in USAGE[name] else []
    lines += ["keys", *_rows(list(_keys(WORDS[name])))]
    return "\n".join(lines)


def _groups(root: str, config_dir: str | None) -> list[str]:
    lines = []
    for group in GROUPS[root]:
        found = choices(group, config_dir)
        if group == "agent":
            found |= {name: entry.summary for name, entry in agents().items() if name not in found}
        lines += [f"{group}=: {SUMMARIES[group]}"]
        lines += [*_rows([(f"{group}={name}", text) for name, text in found.items()]), ""]
    return lines


def _keys(cls: type, path: str = "") -> Iterator[Row]:
    hints = get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            yield from _keys(hints[f.name], f"{path}{f.name}.")
        elif (path + f.name) not in ("agent", "agent.name", "env.id"):  # set by the groups
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
