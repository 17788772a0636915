"""Mutated requests: each runs, or is refused with exit code 2 and one line on stderr, with nothing written or executed.

    python -m tests.faults.request_fuzz 2000 --seed 0

A request is one of a few valid ones with words changed, doubled, added or left out: keys that there are with values
that are odd, names a letter off, flags. It runs in this process as the command does, through the making of everything
that it asks for, up to the first step of training or evaluation.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from rlgym.cli.commands import COMMANDS
from rlgym.cli.handlers import all_options
from rlgym.cli.main import main
from rlgym.config.built_in import BUILT_IN
from rlgym.config.parser import keys
from rlgym.config.registry import resolve
from rlgym.config.schema import ROOTS
from tests.faults.folder_fuzz import DQN, EVIL, PPO, Folders, contents
from tests.ssl import tiny

SECONDS = 20
"""A request that works for so long was understood."""
CANARY = "canary"
ODD = [
    "", " ", "0", "-1", "1", "2", "-0.0", "nan", "inf", "-inf", "1e308", "-1e308", "1e-400", "0.5", "1e6", "1_0", "007",
    "true", "null", "off", "none", "auto", "x", "é", "東京", "💥", "a b", "a,b", "1,2", "[]", "[1]", "[0]", "[-1]",
    "[1,x]", "[1e9,1e9]", "{}", "{a:1}", "{a:{b:[c]}}", "[[1]]", "(", "]", "'", '"', "\\", "${seed}", "${nothing}",
    "${oc.env:HOME}", "~", "/", ".", "..", "*", "last", "$(touch canary)", "`touch canary`", f"{EVIL}:Thing",
    "!!python/object/apply:os.system ['touch canary']", "{_target_:os.system,command:touch canary}", "a=b", "=", "#x",
    "%s", "--", "-", "\n", "a\nb", "\t", "\0", "\udcff", "9" * 19, "9" * 400, "9" * 5_000, "-" + "9" * 5_000,
    "1" + "0" * 10, "1e10", "1e18", "x" * 300, "y" * 5_000, "/".join("ab" * 100), "[" * 200, "choice(1,2)",
    "range(1,4)", "interval(0,1)", "int(1)", "@package", "cuda:99", "cuda", "mps", "cpu", "best", "step_1",
]  # fmt: skip
GROUP_CHOICES = [f"{group}={entry.name}" for group, known in BUILT_IN.items() for entry in known]
WORDS = [*GROUP_CHOICES, "env=Pendulum-v1", "env=tic_tac_toe", "env=kuhn_poker", "env=FrozenLake-v1", "env=ALE/Pong-v5"]
WORDS += ["env=CartPole-v2", "env=nowhere:Thing-v0", "tuned=off", "experiment=cartpole_fast", "model=gpt_nano"]
WORDS += ["model=bert_nano", "model=qwen3", "hydra.run.dir=x", "hydra/launcher=basic", "~agent", "+zeal=3", "zeal"]
FLAGS = [
    "-m",
    "--cfg job",
    "--cfg all",
    "--config-dir .",
    "--config-dir nowhere",
    "--help",
    "--zeal",
    "--version",
    "-x",
]


def known_keys(command: str) -> list[str]:
    """Every dotted key that a command takes, whatever is chosen."""
    if command not in ROOTS:
        return sorted(all_options(command))
    root = ROOTS[command]
    found = keys(root)
    for group in root.sections:
        found += [key for entry in BUILT_IN[group] for key in keys(resolve(entry.config), group)]
    return sorted(set(found))


def requests(folders: Folders, kinds: Sequence[str]) -> list[list[str]]:
    """Valid requests to begin with: of each kind of run that is made, and of those that need none."""
    text = [f"data.path=['{folders.text}']" if "data.path" in word else word for word in tiny.words(folders.text)]
    train = [
        ["train", *PPO, "env=CartPole-v1"],
        ["train", *DQN, "env=CartPole-v1", "agent.net_arch=[8]"],
        ["train", "agent=sac", "env=Pendulum-v1", "agent.buffer_size=200", "device=cpu", "display=quiet"],
        ["train", "agent=rainbow", "env=CartPole-v1", "agent.buffer_size=200", "device=cpu", "display=quiet"],
        ["train", "agent=alphazero", "env=tic_tac_toe", "agent.games=4", "agent.buffer_size=200", "tuned=off"]
        + ["agent.learning_starts=20", "agent.width=8", "device=cpu", "display=quiet"],
        ["-m", *PPO, "env=CartPole-v1", "seed=1,2"],
        ["sweep", *PPO, "env=CartPole-v1", "agent.gamma=choice(0.9,0.99)", "trials=2", "seeds=1"],
        ["pretrain", "objective=next_token", "model=gpt_nano", "tokens=512", *text],
        ["pretrain", "objective=masked", "model=bert_nano", "tokens=512", *text],
        ["runs", str(folders.root)],
        ["compare", str(folders.root / "ppo"), "out=compared"],
    ]
    of_runs = {
        "ppo": ["resume {run} steps=192 display=quiet", "evaluate {run} episodes=1", "play {run} episodes=1"]
        + ["export {run} path=exported", "rerun {run} --cfg job", "rerun {run} seed=2"],
        "pretrain": ["evaluate {run} tokens=64", "generate {run} tokens=4 prompt=a", "resume {run} tokens=768"]
        + ["finetune init_from={run} data=csv data.path={table} tokens=64 method.baselines=false display=quiet"]
        + ["finetune init_from={run} method=grpo reward=length tokens=64 method.prompts=4 display=quiet"],
        "classification": ["predict {run} text=sun", "predict {run} data={table}", "evaluate {run}"],
    }
    for kind in kinds:
        lines = [line.format(run=folders[kind], table=folders.table) for line in of_runs[kind]]
        train += [line.split() for line in lines]
    return [*train, ["fill", str(folders.root / "ppo"), "text=[MASK]"]]


def mutate(words: Sequence[str], draw: random.Random) -> list[str]:
    """One to three changes of a request."""
    words = list(words)
    command = words[0] if words[0] in COMMANDS else "train"
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        at = draw.randrange(len(words))
        key, equals, value = words[at].partition("=")
        how = draw.choice(["value", "value", "value", "key", "key", "add", "drop", "double", "typo", "flag", "cut"])
        if how == "value" and equals:
            words[at] = f"{key}={draw.choice(ODD)}"
        elif how == "key":
            prefix = draw.choice(["", "", "", "", "+", "++"])
            words.append(f"{prefix}{draw.choice(known_keys(command))}={draw.choice(ODD)}")
        elif how == "add":
            words.append(draw.choice(WORDS))
        elif how == "drop" and len(words) > 1:
            del words[at]
        elif how == "double":
            words.append(words[at] if draw.random() < 0.5 else f"{key}={draw.choice(ODD)}")
        elif how == "typo" and words[at]:
            place = draw.randrange(len(words[at]))
            letter = draw.choice(["", "x", "=", ".", "/", ":", " ", "é"])
            words[at] = words[at][:place] + letter + words[at][place + draw.choice([0, 1]) :]
        elif how == "flag":
            words += draw.choice(FLAGS).split()
        elif how == "cut":
            words[at] = words[at][: draw.randrange(len(words[at]) + 1)]
    return words


class Runs(BaseException):
    """The request was understood: from here on it would work."""


@contextlib.contextmanager
def understood(deep: bool) -> Iterator[None]:
    """Inside, what trains, plays or searches ends at its first step; not `deep`: before anything is built for it."""

    def begins(*arguments: Any, **named: Any) -> Any:
        raise Runs

    places = [
        "rlgym.training.train.create_run" if deep else "rlgym.training.train.build_learner",
        "rlgym.training.resume.drive",
        "rlgym.sweeps.tune.go_on",
        "rlgym.envs.evaluation.evaluate_policy",
    ]
    places += ["rlgym.cli.play.show", "rlgym.sweeps.multirun._side_by_side"]
    with contextlib.ExitStack() as stack:
        for place in places:
            stack.enter_context(patch(place, begins))
        before = signal.signal(signal.SIGALRM, begins)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def ended(words: Sequence[str], deep: bool = True) -> tuple[int, str, str]:
    """(exit code, stderr, the traceback of what escaped) of a request."""
    out, err, fault, code = io.StringIO(), io.StringIO(), "", 0
    with understood(deep), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        signal.alarm(SECONDS)
        try:
            code = main(list(words))
        except Runs:
            pass
        except BaseException:
            fault = traceback.format_exc()
    return code, err.getvalue(), fault


def faults_of(words: Sequence[str], place: Path, deep: bool) -> str:
    """What is wrong with how a request ended; empty: nothing."""
    held = contents(place)
    code, err, fault = ended(words, deep)
    if fault or "Traceback" in err:
        return fault or err
    if EVIL in sys.modules:
        del sys.modules[EVIL]
        if not any(f"{EVIL}:" in word for word in words):
            return "imported a module that nobody named"
    if (place / CANARY).exists():
        (place / CANARY).unlink()
        return "ran a command"
    if code not in (0, 2, 3):
        return f"exit code {code}: {err}"
    if code == 2:
        if err.count("\n") != 1 or not err.startswith("rlgym: "):
            return f"refused with {err.count(chr(10))} lines: {err}"
        if changed := sorted(set(contents(place).items()) ^ set(held.items())):
            return f"refused ({err.strip()}) and wrote {changed[0][0]}"
    return ""


def fuzz(folders: Folders, count: int, seed: int, kinds: Sequence[str], deep: bool = True) -> list[str]:
    """The faults of `count` requests; the current folder is where they would write."""
    begin = requests(folders, kinds)
    place = Path.cwd()
    (place / f"{EVIL}.py").write_text("Thing = object\n")
    found: list[str] = []
    began = time.monotonic()
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        words = mutate(draw.choice(begin), draw)
        fault = faults_of(words, place, deep)
        if fault:
            shown = [word if len(word) < 200 else f"{word[:40]}... ({len(word)})" for word in words]
            found.append(f"request {number} of seed {seed}: {shown}\n{fault}")
            print(found[-1], flush=True)
        if number % 50 == 49:
            print(f"{number + 1} requests, {len(found)} faults, {time.monotonic() - began:,.0f} s", flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="mutated requests")
    parser.add_argument("count", type=int, nargs="?", default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=["ppo", "pretrain", "classification"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))  # what slips through must not take the machine with it
    with tempfile.TemporaryDirectory() as root, tiny.cache(Path(root) / "cache"):
        (Path(root) / "work").mkdir()
        os.chdir(Path(root) / "work")
        faults = fuzz(Folders(Path(root)), given.count, given.seed, given.kinds)
    print(f"{given.count} requests of seed {given.seed}: {len(faults)} faults")
    sys.exit(bool(faults))
