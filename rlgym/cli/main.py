"""From the words on a command line to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlgym import __version__
from rlgym.cli import help
from rlgym.cli.commands import ARCHIVE, PRODUCTS
from rlgym.common.suggest import did_you_mean
from rlgym.config.options import once, positional, read, split
from rlgym.config.schema import ROOTS
from rlgym.errors import CheckpointError, RequestError, TrainingError

INTERRUPTED = 130
LONGEST = 2_000
"""Characters of a complaint: somebody may have given a whole file as a value."""
_TRAINING = ", ".join(ROOTS)


@dataclass
class CommandLine:
    command: str = ""
    """Empty: none was given, which is `train`."""
    words: list[str] = field(default_factory=list)
    multirun: bool = False
    cfg: str | None = None
    config_dir: str | None = None
    help: bool = False
    version: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(_read(argv), argv)
        sys.stdout.flush()
        return code
    except (RequestError, TrainingError, CheckpointError) as error:
        complain(error)
        return getattr(error, "exit_code", RequestError.exit_code)
    except KeyboardInterrupt:  # before or after training; during it the loop saves a checkpoint first
        print("rlgym: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `rlgym runs | head`: nobody reads on, and the interpreter must not try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that can only be read
        complain(f"{error.filename or 'output'}: {error.strerror or error}")
        return RequestError.exit_code


def complain(error: Exception | str) -> None:
    """One line on stderr; of a very long one the beginning and the end."""
    text = " ".join(str(error).split())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
    print(f"rlgym: {text}", file=sys.stderr)


def _read(argv: Sequence[str]) -> CommandLine:
    """Flags may stand anywhere; the first other word without `=` is the command."""
    line = CommandLine()
    rest = list(argv)
    for word in rest:
        if not word.isascii() and word != word.encode(errors="replace").decode():
            raise RequestError(f"{word!a}: holds bytes that are not UTF-8, as files' names may; give it as UTF-8")
        if "\0" in word:
            raise RequestError(f"{word!a}: holds a NUL character, which no value can")
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            line.words.append(word)
        elif flag in ("-m", "--multirun"):
            line.multirun = True
        elif flag in ("-h", "--help"):
            line.help = True
        elif flag == "--tree":
            line.words.append("tree=true")
        elif flag == "--version":
            line.version = True
        elif flag in ("-c", "--cfg", "-cd", "--config-dir"):
            if not equals and not rest:
                raise RequestError(
                    f"{flag} needs a value: {'--cfg job' if flag in ('-c', '--cfg') else '--config-dir DIR'}"
                )
            value = value if equals else rest.pop(0)
            name = "cfg" if flag in ("-c", "--cfg") else "config_dir"
            if getattr(line, name) is not None:
                raise RequestError(f"{flag} {value}: given twice; leave out one of the two")
            if not value:
                raise RequestError(f"{flag}: its value is empty")
            setattr(line, name, value)
        else:
            known = ("--multirun", "--cfg", "--config-dir", "--help", "--version")
            raise RequestError(f"unknown option {word}{did_you_mean(flag, known) or ' (see --help)'}")
    if line.words and "=" not in line.words[0] and line.words[0][:1].isalnum():
        line.command = line.words.pop(0)
        if line.command not in help.COMMANDS:
            near = did_you_mean(line.command, help.COMMANDS) or f": one of {', '.join(help.COMMANDS)}"
            raise RequestError(f"unknown command {line.command}{near}")
    return line


def _run(line: CommandLine, argv: Sequence[str]) -> int:
    name = line.command or "train"
    if line.version:
        print(f"rlgym {__version__}")
        return 0
    if line.help:
        chosen = dict(word.split("=", 1) for word in line.words if "=" in word)
        print(help.command(name, line.config_dir, chosen) if line.command else help.overview(line.config_dir))
        return 0
    if line.cfg not in (None, "job"):
        raise RequestError(f"--cfg {line.cfg}: only --cfg job")
    if line.multirun and name not in ROOTS:
        raise RequestError(f"-m is for {_TRAINING}; {name} takes one run")
    if line.config_dir is not None and name not in (*ROOTS, "sweep"):
        raise RequestError(f"--config-dir is for {_TRAINING} and sweep, not for {name}")
    if line.cfg is not None and name not in (*ROOTS, "rerun"):
        raise RequestError(f"--cfg is for {_TRAINING} and rerun, not for {name}")
    return _COMMANDS[name](line, ["rlgym", *argv])


def _train(line: CommandLine, command: list[str]) -> int:
    root = line.command or "train"
    once(line.words)
    if line.multirun:
        from rlgym.sweeps.multirun import sweep

        return sweep(line.words, command, config_dir=line.config_dir, show=line.cfg is not None, root=root)
    from rlgym.config.compose import compose

    return _start(compose(line.words, root, line.config_dir), line, command)


def _rerun(line: CommandLine, command: list[str]) -> int:
    word, words = positional(help.all_words("rerun"), line.words)
    own = [w for w in words if w.startswith("trust=")]
    trust = read(help.WORDS["rerun"], own)["trust"]
    from rlgym.config.compose import revise
    from rlgym.run_folder.config_file import load_config

    config = load_config(_find(line, word), trust)
    config.run.dir = ""  # a folder holds one run
    return _start(revise(config, [*once([w for w in words if w not in own])]), line, command)


def _start(config: Any, line: CommandLine, command: list[str]) -> int:
    if line.cfg is not None:
        from rlgym.config.io import to_yaml

        print(to_yaml(config), end="")
        return 0
    from rlgym.training.train import run_training

    return run_training(config, command).exit_code


def _resume(line: CommandLine, command: list[str]) -> int:
    run, words = _run_and_words(line)
    from rlgym.training.resume import resume

    return resume(run, words).exit_code


def _product(line: CommandLine, command: list[str]) -> int:
    """What a finished run is good for: the same word may be other code for a policy and for a language model."""
    products = PRODUCTS[line.command]
    word, rest = positional(help.all_words(line.command), line.words)
    if word is not None and word.endswith(".zip") and not Path(word).is_dir():
        subject, kind = Path(word), ARCHIVE
    else:
        wrong = [error for product in products.values() if (error := _unreadable(product.words, rest))]
        if len(wrong) == len(products):  # words that no kind of run takes are wrong whether there is a run or not
            raise wrong[0]
        subject = _find(line, word)
        from rlgym.run_folder.config_file import root_of_run

        kind = root_of_run(subject)
    if kind not in products:
        able = ", ".join(name for name, kinds in PRODUCTS.items() if kind in kinds)
        takes = " and ".join(kind for kind in products if kind != ARCHIVE)
        what = "an archive" if kind == ARCHIVE else f"one of {kind}"
        raise RequestError(f"{line.command} is for runs of {takes}; {subject} is {what}: {able}")
    words = read(products[kind].words, rest)
    from rlgym.config.registry import resolve

    resolve(products[kind].function)(subject, words)
    return 0


def _runs(line: CommandLine, command: list[str]) -> int:
    folder, words = positional(help.all_words("runs"), line.words)
    wanted = read(help.WORDS["runs"], words)
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


def _compare(line: CommandLine, command: list[str]) -> int:
    keys = help.all_words("compare")
    runs = [word for word in line.words if word.partition("=")[0] not in keys or Path(word).exists()]
    options = read(help.WORDS["compare"], [word for word in line.words if word not in runs])
    from rlgym.analysis.compare import compare

    compare(runs, options)
    return 0


def _sweep(line: CommandLine, command: list[str]) -> int:
    keys = help.all_words("sweep")
    own = [word for word in line.words if word.partition("=")[0] in keys]
    rest = [*once([word for word in line.words if word not in own])]
    options = read(help.WORDS["sweep"], own)
    old = [word for word in rest if "=" not in word or (Path(word) / "sweep.json").is_file()]
    if old and len(rest) > 1:
        other = next(word for word in rest if word != old[0])
        raise RequestError(f"{other}: a sweep goes on as it began; leave out {old[0]} to begin another")
    from rlgym.sweeps import tune

    if old:
        return tune.resume(tune.find_sweep(old[0]), dict(map(split, own)), options)
    return tune.search(rest, options, command, line.config_dir)


def _run_and_words(line: CommandLine) -> tuple[Path, dict[str, Any]]:
    word, rest = positional(help.all_words(line.command), line.words)
    words = read(help.WORDS[line.command], rest)
    return _find(line, word), words


def _unreadable(cls: type, words: list[str]) -> RequestError | None:
    try:
        read(cls, words)
    except RequestError as error:
        return error
    return None


def _find(line: CommandLine, word: str | None) -> Path:
    if word is None:
        raise RequestError(f"{line.command} needs a run: {help.USAGE[line.command]}; {help.RUN}")
    from rlgym.run_folder.folder import find_run

    return find_run(word).dir


_COMMANDS: dict[str, Callable[[CommandLine, list[str]], int]] = {
    **dict.fromkeys(ROOTS, _train),
    "resume": _resume,
    **dict.fromkeys(PRODUCTS, _product),
    "runs": _runs,
    "rerun": _rerun,
    "compare": _compare,
    "sweep": _sweep,
}
