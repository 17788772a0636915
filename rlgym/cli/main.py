"""The command line: parses the arguments, runs the command, returns an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rlgym import __version__
from rlgym.cli.commands import COMMANDS, CommandLine
from rlgym.errors import CheckpointError, RequestError, TrainingError

INTERRUPTED = 130
LONGEST = 2_000
"""Longest error line, in characters, since a value may be a whole file."""


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
    except (
        BrokenPipeError
    ):  # `rlgym runs | head`: stdout is closed, and the interpreter must not flush it again on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a read-only folder
        complain(f"{error.filename or 'output'}: {error.strerror or error}")
        return RequestError.exit_code


def complain(error: Exception | str) -> None:
    """Print one line on stderr; a very long one is shortened in the middle."""
    text = " ".join(str(error).split())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
    print(f"rlgym: {text}", file=sys.stderr)


def _read(argv: Sequence[str]) -> CommandLine:
    """Parse the arguments. Flags may be anywhere; the first other word without `=` is the command."""
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
            from rlgym.common.suggest import did_you_mean

            known = ("--multirun", "--cfg", "--config-dir", "--help", "--version")
            raise RequestError(f"unknown option {word}{did_you_mean(flag, known) or ' (see --help)'}")
    if line.words and "=" not in line.words[0] and line.words[0][:1].isalnum():
        line.command = line.words.pop(0)
        if line.command not in COMMANDS:
            from rlgym.common.suggest import did_you_mean

            near = did_you_mean(line.command, COMMANDS) or f": one of {', '.join(COMMANDS)}"
            raise RequestError(f"unknown command {line.command}{near}")
    return line


def _run(line: CommandLine, argv: Sequence[str]) -> int:
    name = line.command or "train"
    if line.version:
        print(f"rlgym {__version__}")
        return 0
    if line.help:
        from rlgym.cli import help

        chosen = dict(word.split("=", 1) for word in line.words if "=" in word)
        print(help.command(name, line.config_dir, chosen) if line.command else help.overview(line.config_dir))
        return 0
    from rlgym.cli import handlers
    from rlgym.config.schema import ROOTS

    training = ", ".join(ROOTS)
    if line.cfg not in (None, "job"):
        raise RequestError(f"--cfg {line.cfg}: only --cfg job")
    if line.multirun and name not in ROOTS:
        raise RequestError(f"-m is for {training}; {name} takes one run")
    if line.config_dir is not None and name not in (*ROOTS, "sweep"):
        raise RequestError(f"--config-dir is for {training} and sweep, not for {name}")
    if line.cfg is not None and name not in (*ROOTS, "rerun"):
        raise RequestError(f"--cfg is for {training} and rerun, not for {name}")
    return int(getattr(handlers, COMMANDS[name].handler)(line, ["rlgym", *argv]))
