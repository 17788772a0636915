"""The handlers of the commands: read the options, find the run, call its code. Heavy modules are imported where needed,
so that help and wrong requests are fast.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from rlgym.cli.commands import ARCHIVE, COMMANDS, RUN, CommandLine, option_classes, options_of
from rlgym.config.options import CompareOptions, RerunOptions, RunsOptions, SweepOptions, once, positional, read, split
from rlgym.errors import RequestError


def train(line: CommandLine, command: list[str]) -> int:
    root = line.command or "train"
    once(line.words)
    if line.multirun:
        from rlgym.sweeps.multirun import sweep

        return sweep(line.words, command, config_dir=line.config_dir, show=line.cfg is not None, root=root)
    from rlgym.config.compose import compose

    return _start(compose(line.words, root, line.config_dir), line, command)


def rerun(line: CommandLine, command: list[str]) -> int:
    word, words = positional(all_options("rerun"), line.words)
    own = [w for w in words if w.startswith("trust=")]
    trust = read(RerunOptions, own)["trust"]
    from rlgym.config.compose import revise
    from rlgym.run_folder.config_file import load_config

    config = load_config(_find(line, word), trust)
    config.run.dir = ""  # one run per folder
    return _start(revise(config, [*once([w for w in words if w not in own])]), line, command)


def _start(config: Any, line: CommandLine, command: list[str]) -> int:
    if line.cfg is not None:
        from rlgym.config.io import to_yaml

        print(to_yaml(config), end="")
        return 0
    from rlgym.training.train import run_training

    return run_training(config, command).exit_code


def resume(line: CommandLine, command: list[str]) -> int:
    run, words = run_and_options(line)
    from rlgym.training.resume import resume

    return resume(run, words).exit_code


def use(line: CommandLine, command: list[str]) -> int:
    """A command on a finished run; its code depends on the kind of run (policy, language model)."""
    kinds = COMMANDS[line.command].code
    word, rest = positional(all_options(line.command), line.words)
    if word is not None and word.endswith(".zip") and not Path(word).is_dir():
        subject, kind = Path(word), ARCHIVE
    else:
        wrong = [error for code in kinds.values() if (error := _unreadable(options_of(code), rest))]
        if len(wrong) == len(kinds):  # options that no kind of run takes are refused before the run is looked for
            raise wrong[0]
        subject = _find(line, word)
        from rlgym.run_folder.config_file import root_of_run

        kind = root_of_run(subject)
    if kind not in kinds:
        able = ", ".join(name for name, each in COMMANDS.items() if kind in each.code)
        takes = " and ".join(kind for kind in kinds if kind != ARCHIVE)
        what = "an archive" if kind == ARCHIVE else f"one of {kind}"
        raise RequestError(f"{line.command} is for runs of {takes}; {subject} is {what}: {able}")
    words = read(options_of(kinds[kind]), rest)
    from rlgym.config.registry import resolve

    resolve(kinds[kind].function)(subject, words)
    return 0


def runs(line: CommandLine, command: list[str]) -> int:
    folder, words = positional(all_options("runs"), line.words)
    wanted = read(RunsOptions, words)
    from rlgym.cli.runs import matching_rows, sorted_rows
    from rlgym.common.table import print_table
    from rlgym.run_folder.folder import list_runs

    root = Path(folder or "runs")
    if folder is not None and not root.is_dir():
        raise RequestError(f"{folder}: no such folder")
    rows = list_runs(root)
    if not rows:
        print(f"no runs under {root}/")
        return 0
    columns = [column for column in rows[0] if column not in ("dir", "lower", "parent")]
    if wanted["sort"]:
        rows = sorted_rows(rows, wanted["sort"])
    chosen = matching_rows(rows, wanted)
    if not chosen:
        print(f"none of {len(rows)} runs under {root}/ fits")
        return 0
    if wanted["tree"]:
        from rlgym.run_folder.lineage import as_tree

        chosen = as_tree(chosen)
    print_table(chosen[: wanted["limit"]], columns)
    return 0


def compare(line: CommandLine, command: list[str]) -> int:
    keys = all_options("compare")
    runs = [word for word in line.words if word.partition("=")[0] not in keys or Path(word).exists()]
    options = read(CompareOptions, [word for word in line.words if word not in runs])
    from rlgym.analysis.compare import compare

    compare(runs, options)
    return 0


def sweep(line: CommandLine, command: list[str]) -> int:
    keys = all_options("sweep")
    own = [word for word in line.words if word.partition("=")[0] in keys]
    rest = [*once([word for word in line.words if word not in own])]
    options = read(SweepOptions, own)
    old = [word for word in rest if "=" not in word or (Path(word) / "sweep.json").is_file()]
    if old and len(rest) > 1:
        other = next(word for word in rest if word != old[0])
        raise RequestError(f"{other}: a sweep goes on as it began; leave out {old[0]} to begin another")
    from rlgym.sweeps import tune

    if old:
        return tune.resume(tune.find_sweep(old[0]), dict(map(split, own)), options)
    return tune.search(rest, options, command, line.config_dir)


def run_and_options(line: CommandLine) -> tuple[Path, dict[str, Any]]:
    word, rest = positional(all_options(line.command), line.words)
    words = read(options_of(COMMANDS[line.command]), rest)
    return _find(line, word), words


def _unreadable(cls: type, words: list[str]) -> RequestError | None:
    try:
        read(cls, words)
    except RequestError as error:
        return error
    return None


def _find(line: CommandLine, word: str | None) -> Path:
    if word is None:
        raise RequestError(f"{line.command} needs a run: {COMMANDS[line.command].usage}; {RUN}")
    from rlgym.run_folder.folder import find_run

    return find_run(word).dir


def all_options(name: str) -> set[str]:
    """All option keys of a command, for any kind of run."""
    return {f.name for cls in option_classes(name) for f in fields(cls)}
