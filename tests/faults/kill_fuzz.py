"""Runs that are killed at random moments and resumed until they are finished, against the same runs left alone.

    python -m tests.faults.kill_fuzz 60 --seed 1 [--learners ppo,dqn]

Every kill is a SIGKILL, SIGTERM, SIGINT or SIGHUP somewhere between the first import and the end, or just when a
checkpoint, an evaluation or the summary is being written. No traceback, the right exit code, never a step behind the
last checkpoint, and in the end the weights and rows of the run that nobody killed, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlgym.common.table import print_table
from rlgym.run_folder import checkpoint
from tests.faults.helpers import ENVIRONMENT
from tests.ssl.finetune.starts import write_table

CARTPOLE = ["env=CartPole-v1", "tuned=off", "evaluate.episodes=3"]
EVERY = ["log.every=250", "evaluate.every=700", "checkpoint.every=500", "steps=3000"]
REPLAY = ["env.num_envs=2", "agent.learning_starts=200", "agent.buffer_size=1000"]
TINY = ["model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.block_size=32"]
LEARNERS = {
    "ppo": ["agent=ppo", *CARTPOLE, *EVERY, "agent.n_steps=32", "agent.batch_size=128", "agent.n_epochs=2"],
    "dqn": ["agent=dqn", *CARTPOLE, *EVERY, *REPLAY, "agent.train_freq=32", "agent.gradient_steps=8"],
    "sac": ["agent=sac", "env=Pendulum-v1", *CARTPOLE[1:], *EVERY, *REPLAY, "agent.train_freq=32",
            "agent.gradient_steps=4", "agent.batch_size=32", "agent.net_arch=[16]"],
    "sb3/ppo": ["agent=sb3/ppo", *CARTPOLE, *EVERY, "env.num_envs=4", "agent.n_steps=64", "agent.batch_size=128",
                "agent.n_epochs=2"],
    "alphazero": ["agent=alphazero", "env=tic_tac_toe", "tuned=off", "agent.games=16", "agent.n_steps=4",
                  "agent.simulations=4", "agent.fast_simulations=2", "agent.width=8", "agent.blocks=1",
                  "agent.buffer_size=300", "agent.learning_starts=100", "agent.batch_size=32",
                  "agent.opponents=random", "agent.evaluate_simulations=4", "evaluate.episodes=4", *EVERY],
    "pretrain": ["pretrain", "model=gpt_nano", "data=text", *TINY, "batch_size=16", "tokens=40960", "log.every=2048",
                 "evaluate.every=10240", "checkpoint.every=8192", "evaluate.tokens=2048", "tokenizer=byte"],
    "classification": ["finetune", "method=classification", "method.baselines=false", "data=csv", "data.path=t.csv",
                       "batch_size=8", "tokens=12000", "log.every=500", "evaluate.every=2100", "checkpoint.every=1500"],
    "grpo": ["finetune", "method=grpo", "reward=length", "data=csv", "data.path=t.csv", "method.prompt=text",
             "method.max_new_tokens=6", "method.prompts=6", "method.group_size=4", "method.evaluate_prompts=8",
             "batch_size=8", "tokens=4000", "log.every=1", "evaluate.every=1500", "checkpoint.every=700"],
}  # fmt: skip
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
MOMENTS = ("any time", "checkpoint", "evaluation", "end")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learners", default=",".join(LEARNERS), help="some of them, with commas between")
    options = parser.parse_args(argv)
    chosen, draw = options.learners.split(","), random.Random(options.seed)
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        text = "".join(f"def f{k}(x):\n    return x * {k} + {k % 7}\n\n\n" for k in range(4000))
        (place / "text.txt").write_text(text)
        write_table(place / "t.csv", 60)
        for number, learner in enumerate(chosen):
            share = options.kills // len(chosen) + (number < options.kills % len(chosen))
            for row in killed(learner, share, draw, place):
                rows.append(row)
                wrong += row["found"] != "equal"
                print(f"{learner:14} {row['kills']:2} kills: {row['how']}: {row['found']}", file=sys.stderr, flush=True)
    print_table(rows, ["learner", "kills", "how", "found"])
    print(f"{sum(row['kills'] for row in rows)} kills, {wrong} runs with something wrong")
    return min(1, wrong)


def killed(learner: str, kills: int, draw: random.Random, place: Path) -> Iterator[dict[str, Any]]:
    """One row a run, of up to four kills each."""
    name = learner.replace("/", "_")
    straight = place / f"{name}_straight"
    began = time.monotonic()
    done = command(*words_of(learner, place), f"run.dir={straight}", place=place)
    if done.wait() != 0:
        raise SystemExit(f"{learner}: {said(done)}")
    took = time.monotonic() - began
    count = 0
    while kills:
        run, count = place / f"{name}_{count}", count + 1
        many = min(kills, draw.randint(1, 4))
        kills -= many
        how: list[str] = []
        faults: list[str] = []
        for _ in range(many):
            fault = one_kill(learner, run, draw, took, place, how)
            if fault:
                faults.append(fault)
        final = go_on(learner, run, place)
        if final.wait() not in (0, 2) or "Traceback" in (text := said(final)):
            faults.append(f"the last resume ended with {final.returncode}: {said(final)[-300:]}")
        elif final.returncode == 2 and "nothing to go on with" not in text:
            faults.append(f"the last resume was refused: {text}")
        faults += differences(straight, run)
        yield {"learner": learner, "kills": many, "how": ", ".join(how), "found": "; ".join(faults) or "equal"}


def words_of(learner: str, place: Path) -> list[str]:
    words = [*LEARNERS[learner], "display=quiet", "device=cpu", "threads=1", "compile=off"]
    if learner == "pretrain":
        words.append("data.path=text.txt")
    if words[0] == "finetune":
        words.append(f"init_from={parent(place)}")
    return words


def parent(place: Path) -> Path:
    """The pretrained run that fine-tuning starts from."""
    run = place / "parent"
    if not run.exists():
        words = [word for word in words_of("pretrain", place) if not word.startswith("tokens=")]
        assert command(*words, "tokens=2048", "sample.count=0", f"run.dir={run}", place=place).wait() == 0
    return run


def command(*words: str, place: Path) -> subprocess.Popen[str]:
    environment = ENVIRONMENT | {"RLGYM_CACHE": str(place / "cache")}
    log = (place / "said.txt").open("w+")
    process = subprocess.Popen([sys.executable, "-m", "rlgym", *words], stdout=log, stderr=log, text=True, cwd=place,
                               env=environment, start_new_session=True)  # fmt: skip
    process.log = log  # type: ignore[attr-defined]
    return process


def said(process: Any) -> str:
    process.log.flush()
    return Path(process.log.name).read_text()


def go_on(learner: str, run: Path, place: Path) -> subprocess.Popen[str]:
    """A resume, or the run anew where it was killed before its first checkpoint."""
    if checkpoint.steps(run):
        return command("resume", str(run), "display=quiet", place=place)
    if run.exists():
        run.rename(run.with_name(f"{run.name}_{time.monotonic_ns()}"))
    return command(*words_of(learner, place), f"run.dir={run}", place=place)


def one_kill(learner: str, run: Path, draw: random.Random, took: float, place: Path, how: list[str]) -> str:
    """What was wrong, or nothing."""
    number, moment, before = draw.choice(list(SIGNALS)), draw.choice(MOMENTS), checkpoint.steps(run)
    process = go_on(learner, run, place)
    seen = files(run)
    wait = draw.uniform(0, took) if moment == "any time" else draw.uniform(0, 0.02)
    if moment != "any time":
        wanted = {"checkpoint": ".staging", "evaluation": "evaluations/", "end": "summary.json"}[moment]
        while process.poll() is None and not any(wanted in name for name in files(run) - seen):
            time.sleep(0.0005)
    time.sleep(wait)
    newest = max([0, *checkpoint.steps(run)])
    if process.poll() is None:
        os.kill(process.pid, number)
    code = process.wait(300)
    how.append(f"{signal.Signals(number).name} {moment} ({code})")
    text = said(process)
    if "Traceback" in text:
        return text[-400:]
    # A signal may come before Python has its handlers, or after the run is over.
    if code not in (0, SIGNALS[number], -number) and not (code == 2 and "nothing to go on with" in text):
        return f"exit code {code}: {text[-300:]}"
    if before and max(checkpoint.steps(run)) < newest:
        return f"step {newest} had a checkpoint, and now the last is {max(checkpoint.steps(run))}"
    return ""


def files(run: Path) -> set[str]:
    found = set()
    for folder in (run, run / "checkpoints", run / "evaluations"):
        try:
            found |= {f"{folder.name}/{name}" for name in os.listdir(folder)}
        except OSError:
            continue
    return found


def differences(straight: Path, run: Path) -> list[str]:
    found = []
    last = max(checkpoint.steps(straight))
    if checkpoint.steps(run)[-1:] != [last]:
        return [f"ended at {checkpoint.steps(run)} and not at {last}"]
    name = f"checkpoints/step_{last}"
    for file in sorted((straight / name).glob("*.safetensors")):
        if file.read_bytes() != (run / name / file.name).read_bytes():
            found.append(f"{file.name} differs")
    if rows(straight) != rows(run):
        found.append("metrics.jsonl differs")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (straight, run)]
    if any(one[key] != other[key] for one, other in [summaries] for key in ("status", "steps", "best")):
        found.append("summary.json differs")
    if json.loads((run / "manifest.json").read_text())["status"] != "finished":
        found.append("the manifest does not say finished")
    return found


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times; what a game's evaluation says of its own pace, too."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{tag: v for tag, v in json.loads(line).items() if not tag.startswith("time")} for line in lines]


if __name__ == "__main__":
    sys.exit(main())
