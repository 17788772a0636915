"""Whether a change of the code changed any arithmetic: small runs of two revisions, compared bit for bit.

    python benchmarks/bits.py main .                        # every learner; about five minutes on two cores
    python benchmarks/bits.py HEAD~3 HEAD --only ppo,sac

OLD and NEW are revisions of this repository, or `.` for the working tree. Each learner is trained by the real command
of both, side by side, one thread each, with the same seed on the CPU. Every tensor of the last checkpoints is compared:
weights, the optimiser's state, replay, random numbers. A tensor that only one of them has is a difference too. A
revision that lacks a key named below cannot be compared with it. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from turns import ONE_THREAD, ROOT  # type: ignore[import-not-found]  # beside this

UPDATES = 20
"""A run of fewer would show little."""

COMMON = [
    *("seed=3", "device=cpu", "threads=1", "compile=off", "display=quiet", "log.histograms=false"),
    *("evaluate.every=0", "checkpoint.every=0"),  # at the end they come all the same
]
CARTPOLE = ["env=CartPole-v1", "tuned=off", "evaluate.episodes=1"]
PENDULUM = ["env=Pendulum-v1", "tuned=off", "evaluate.episodes=1", "env.num_envs=2", "steps=400"]
ROLLOUT = ["steps=3200", "env.num_envs=4", "agent.n_steps=32", "agent.batch_size=64", "agent.n_epochs=2"]
REPLAY = ["env.num_envs=2", "steps=600", "agent.buffer_size=500", "agent.learning_starts=100"]
ACTOR_CRITIC = ["agent.buffer_size=300", "agent.batch_size=32", "agent.net_arch=[16]", "agent.train_freq=4"]
SELF_PLAY = ["tuned=off", "steps=2560", "agent.games=16", "agent.n_steps=4"]
SHAPE = ["model.num_hidden_layers=2", "model.hidden_size=32", "model.num_attention_heads=2", "model.block_size=32"]
TEXT = [
    *("pretrain", *SHAPE, "data=text", "data.path=text.txt", "data.validation_fraction=0.1", "tokenizer=byte"),
    *("batch_size=8", "tokens=7680", "evaluate.tokens=512", "sample.count=0"),
]
FINETUNE = ["finetune", "batch_size=8", "tokens=16000"]
LEARNERS = {
    "ppo": ["agent=ppo", *CARTPOLE, *ROLLOUT, "agent.ent_coef=0.01"],
    "a2c": ["agent=a2c", *CARTPOLE, "steps=1600"],
    "dqn": ["agent=dqn", *CARTPOLE, *REPLAY, "agent.target_update_interval=100", "agent.double=true"],
    "rainbow": ["agent=rainbow", *CARTPOLE, *REPLAY, "agent.target_update_interval=100"],
    "sac": ["agent=sac", *PENDULUM, *ACTOR_CRITIC],
    "td3": ["agent=td3", *PENDULUM, *ACTOR_CRITIC],
    "alphazero": [
        *("agent=alphazero", "env=tic_tac_toe", *SELF_PLAY, "agent.simulations=8", "agent.fast_simulations=4"),
        *("agent.width=16", "agent.blocks=1", "agent.buffer_size=400", "agent.learning_starts=100"),
        *("agent.batch_size=32", "agent.opponents=random", "agent.evaluate_simulations=4", "evaluate.episodes=4"),
    ],
    "nfsp": [
        *("agent=nfsp", "env=kuhn_poker", *SELF_PLAY, "agent.train_freq=64", "agent.learning_starts=200"),
        *("agent.buffer_size=400", "agent.reservoir_size=300", "agent.net_arch=[16]", "agent.batch_size=32"),
    ],
    "sb3/ppo": ["agent=sb3/ppo", *CARTPOLE, *ROLLOUT],
    "next_token": [*TEXT, "model=gpt2", "model.dropout=0.1"],
    "masked": [*TEXT, "objective=masked", "model=modernbert"],
    "classification": [*FINETUNE, "method=classification", "method.baselines=false", "data=csv", "data.path=table.csv"],
    "dpo": [*FINETUNE, "method=dpo", "method.samples=0", "data=jsonl", "data.path=pairs.jsonl"],
    "grpo": [
        *(*FINETUNE, "method=grpo", "reward=length", "reward.target=6", "data=csv", "data.path=table.csv"),
        *("method.prompt=text", "method.prompts=4", "method.group_size=4", "method.max_new_tokens=8"),
        "method.evaluate_prompts=4",
    ],
}
PARENTS = {"classification": "masked", "dpo": "next_token", "grpo": "next_token"}
"""What a fine-tuned learner goes on from."""


def write_data(folder: Path) -> None:
    """A text, a table of texts with labels, and pairs of a better and a worse answer."""
    draw = random.Random(0)
    nouns, verbs = ("tree", "river", "stone", "moon", "house", "東京"), ("runs", "sings", "falls", "sleeps", "burns")
    lines = [f"the {draw.choice(nouns)} {draw.choice(verbs)} {draw.randrange(1000)} times." for _ in range(1000)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(("text", "label"))
        for n in range(120):
            verb = draw.choice(verbs)
            csv.writer(file).writerow((f"{draw.choice(nouns)} {verb} {n}", "high" if verb in verbs[:2] else "low"))
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for n in range(120):
            noun, verb = draw.choice(nouns), draw.choice(verbs)
            pair = {"prompt": f"the {noun} {n}", "chosen": f" {verb}.", "rejected": f" {draw.randrange(100)}"}
            file.write(json.dumps(pair) + "\n")


def tree(revision: str, folder: Path) -> Path:
    """Where the code of a revision lies: the working tree, or its files, written into `folder`."""
    if revision == ".":
        return Path(ROOT)
    archive = folder.with_suffix(".tar")
    words = ["git", "-C", str(ROOT), "archive", "-o", str(archive), f"{revision}^{{commit}}"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{revision} is no revision of {ROOT}: {done.stderr.strip()}")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


class Side:
    """One of the two revisions, with a folder for its runs and its prepared data."""

    def __init__(self, revision: str, place: Path) -> None:
        self.revision, self.place = revision, place
        place.mkdir()
        write_data(place)
        code = tree(revision, place / "code")
        self.environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(code), "RLGYM_CACHE": str(place / "cache")}
        words = [sys.executable, "-c", "import rlgym; print(rlgym.__file__)"]
        found = subprocess.run(words, cwd=place, env=self.environment, capture_output=True, text=True, check=True)
        if not Path(found.stdout.strip()).is_relative_to(code):
            raise SystemExit(f"{revision} would run the code of {found.stdout.strip()}")

    def run(self, learner: str) -> Path:
        return self.place / learner.replace("/", "_")

    def start(self, learner: str) -> subprocess.Popen[bytes]:
        words = [*LEARNERS[learner], *COMMON, f"run.dir={self.run(learner)}"]
        if learner in PARENTS:
            words.append(f"init_from={self.run(PARENTS[learner])}")
        command = [sys.executable, "-W", "ignore", "-m", "rlgym", *words]
        with self.said(learner).open("wb") as said:
            return subprocess.Popen(command, cwd=self.place, env=self.environment, stdout=said, stderr=said)

    def said(self, learner: str) -> Path:
        return self.run(learner).with_suffix(".txt")


def tensors(run: Path) -> dict[str, Tensor]:
    """Every tensor of the last checkpoint by file and name, with those that all checkpoints share."""
    last = max((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
    files = {path.stem: path for path in last.glob("*.safetensors")}
    for path in (run / "checkpoints" / "shared").glob("*.safetensors"):
        files[f"shared {re.sub('-[0-9a-f]{16}$', '', path.stem)}"] = path  # without the hash of its content
    return {f"{stem}: {key}": value for stem, path in files.items() for key, value in load_file(path).items()}


def difference(old: dict[str, Tensor], new: dict[str, Tensor]) -> str:
    """The names that only one has, and the first tensor that differs; empty where all are equal to the bit."""
    only = {"OLD": old.keys() - new.keys(), "NEW": new.keys() - old.keys()}
    found = [f"only in {side}: {', '.join(sorted(names))}" for side, names in only.items() if names]
    both = sorted(old.keys() & new.keys())
    differ = [name for name in both if not same_bits(old[name], new[name])]
    if differ:
        found.append(f"{len(differ)} of {len(both)} differ, the first is {differ[0]}")
    return "; ".join(found)


def same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(part.reshape(-1).contiguous().view(torch.uint8) for part in (one, other)))


def compared(learner: str, sides: Sequence[Side]) -> dict[str, Any]:
    """Train a learner on both sides: its row of the table."""
    processes = [side.start(learner) for side in sides]
    ends = [process.wait() for process in processes]
    for name, side, end in zip(("OLD", "NEW"), sides, ends, strict=True):
        if end:
            lines = side.said(learner).read_text().strip().splitlines()
            return {"updates": "", "tensors": "", "found": f"{name} ended with {end}: {lines[-1] if lines else ''}"}
    updates = [json.loads((side.run(learner) / "summary.json").read_text())["updates"] for side in sides]
    old, new = (tensors(side.run(learner)) for side in sides)
    found = difference(old, new)
    if updates[0] != updates[1]:
        found = f"{updates[0]} and {updates[1]} updates; {found}"
    elif updates[0] < UPDATES:
        found = f"fewer than {UPDATES} updates; {found}"
    return {"updates": updates[0], "tensors": len(old.keys() & new.keys()), "found": found or "equal"}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument(
        "--only",
        default=",".join(LEARNERS),
        help="some learners, with commas between; what they go on from is trained and compared too",
    )
    given = parser.parse_args(words)
    only = given.only.split(",")
    if unknown := [name for name in only if name not in LEARNERS]:
        parser.error(f"--only {unknown[0]}: no such learner; there are {', '.join(LEARNERS)}")
    needed = {*only, *(PARENTS[name] for name in only if name in PARENTS)}
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side(given.old, Path(folder) / "old"), Side(given.new, Path(folder) / "new")]
        for learner in [name for name in LEARNERS if name in needed]:
            began = time.perf_counter()
            rows[learner] = compared(learner, sides)
            print(f"{learner}: {rows[learner]['found']} ({time.perf_counter() - began:.0f} s)", file=sys.stderr)
    print(f"OLD {given.old}, NEW {given.new}\n\n| learner | updates | tensors compared | found |\n|---|---|---|---|")
    for learner, row in rows.items():
        print(f"| {learner} | {row['updates']} | {row['tensors']} | {row['found']} |")
    return int(any(row["found"] != "equal" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
