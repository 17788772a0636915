"""The help texts, from the table of commands, the dataclasses of the config and the conf tree.

`rlgym --help` imports little more than this file, so that it is instant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any, get_type_hints

from rlgym import __version__
from rlgym.cli.commands import ARCHIVE, COMMANDS, RUN, options_of
from rlgym.config.built_in import BUILT_IN
from rlgym.config.groups import GROUPS, SET_BY, SUMMARIES, choices

if TYPE_CHECKING:
    from dataclasses import Field

Row = tuple[str, str]

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
    commands = [(name, command.summary) for name, command in COMMANDS.items()]
    lines += ["commands (COMMAND --help for their keys)", *_rows(commands), ""]
    lines += _groups("train", config_dir)
    lines += ["options", *_rows(FLAGS), "", "examples", *(f"  {line}" for line in EXAMPLES), ""]
    lines += ["every key with its default: rlgym train --help, rlgym pretrain --help, rlgym finetune --help"]
    return "\n".join(lines)


def command(name: str, config_dir: str | None = None, chosen: Mapping[str, str] | None = None) -> str:
    """`rlgym COMMAND --help`; for a training command, with the hyper-parameters of `chosen`, or of all built-in
    choices."""
    from rlgym.config.registry import config_of, entries
    from rlgym.config.schema import ROOTS

    about = COMMANDS[name]
    lines = [f"usage: {about.usage}", "", about.summary, ""]
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
    lines += [*about.about, ""] if about.about else []
    lines += [RUN, ""] if "RUN" in about.usage and not about.about else []
    for kind, code in about.code.items():
        of = "a model.zip that Stable-Baselines3 saved" if kind == ARCHIVE else f"a run of {kind}"
        lines += [f"keys for {of}", *_rows(list(_keys(options_of(code)))), ""]
    if about.options:
        lines += ["keys", *_rows(list(_keys(options_of(about))))]
    return "\n".join(lines).rstrip()


def _groups(root: str, config_dir: str | None) -> list[str]:
    lines = []
    for group in GROUPS[root]:
        found = choices(root, group, config_dir)
        lines += [f"{group}=: {SUMMARIES[group]}"]
        lines += [*_rows([(f"{group}={name}", text) for name, text in found.items()]), ""]
    return lines


def _keys(cls: type, path: str = "") -> Iterator[Row]:
    from dataclasses import fields, is_dataclass

    hints = get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            yield from _keys(hints[f.name], f"{path}{f.name}.")
        elif hints[f.name] is not Any and (path + f.name) not in SET_BY:  # set by the groups
            yield f"{path}{f.name}={_default(f)}", f.metadata.get("help", "") + _bounds(f.metadata)


def _default(f: Field[Any]) -> str:
    from dataclasses import MISSING

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
    width = max(60, min(120, _columns()))
    left = min(32, max((len(name) for name, _ in rows), default=0)) + 2
    lines = []
    for name, text in rows:
        first, *rest = wrap(text, width - left - 2) or [""]
        if len(name) >= left:
            lines.append(f"  {name}")
            name = ""
        lines += [f"  {name:<{left}}{first}".rstrip(), *(f"  {'':<{left}}{line}" for line in rest)]
    return lines


def _columns() -> int:
    """The terminal's width, as `shutil.get_terminal_size` has it, which takes longer to import than help to print."""
    if (columns := os.environ.get("COLUMNS", "")).isdigit() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or 100
    except OSError:
        return 100
