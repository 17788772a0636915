"""Programs that learn in an environment, each a process of its own that sleeps until its turn of some steps.

Round after round each program takes the same number of environment steps, with the gradient steps that belong to them,
every round begun by another, so that a machine whose speed drifts favours none. A ratio is the median over the rounds'
pairs, with the 95 % bootstrap interval of that median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


# ---- inside a program


class Held:
    """Stands between a program's updates: ends its turn, tells what was done in it, and sleeps until the next."""

    def __init__(self, warm: int) -> None:
        """The first turn is everything up to step `warm`: compiling, filling the replay, exploring."""
        self.until, self.steps, self.gradient_steps = warm, 0, 0
        self.began = time.perf_counter()

    def between(self, steps: int, gradient_steps: int, **facts: object) -> None:
        """After an update: environment steps and gradient steps since the program began."""
        if steps < self.until:
            return
        found = {
            "seconds": time.perf_counter() - self.began,
            "steps": steps - self.steps,
            "gradient_steps": gradient_steps - self.gradient_steps,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **facts,
        }
        sys.__stdout__.write(json.dumps(found) + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]
        line = sys.stdin.readline()
        if not line:  # nobody asks any more
            os._exit(0)
        self.until, self.steps, self.gradient_steps = steps + int(line), steps, gradient_steps
        self.began = time.perf_counter()


def run_rlgym(words: list[str], held: Held, folder: str) -> None:
    """The real command with its loop and logging, held after each update; evaluations and checkpoints are left out."""
    from rlgym.cli.main import main
    from rlgym.config.registry import entry, resolve

    (agent,) = (word.removeprefix("agent=") for word in words if word.startswith("agent="))
    cls = resolve(entry("agent", agent).target)
    update, learn = cls.update, cls.learn
    taken = 0

    def counted(self: Any, batches: Any, steps: int) -> Any:
        nonlocal taken
        taken += steps
        return learn(self, batches, steps)

    def turned(self: Any) -> Any:
        metrics = update(self)
        held.between(self.progress.step, taken, parameters=parameters(self.policy.network))
        return metrics

    cls.learn, cls.update = counted, turned
    quiet = ["display=quiet", "evaluate.every=0", "evaluate.episodes=1", "checkpoint.every=0", "log.histograms=false"]
    code = main(["train", *words, *quiet, "threads=1", "device=cpu", f"run.dir={folder}/rlgym-{os.getpid()}"])
    raise SystemExit(f"rlgym ended with {code}")


def run_sb3(model: Any, network: Any, steps: int, held: Held) -> None:
    """Stable-Baselines3's own `learn`, held before each rollout."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Turns(BaseCallback):
        def _on_rollout_start(self) -> None:
            held.between(self.num_timesteps, self.model._n_updates, parameters=parameters(network))

        def _on_step(self) -> bool:
            return True

    model.learn(steps, callback=Turns())


def parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


Programs = dict[str, Callable[[Held, str], None]]
"""By name: what to run between the turns, and a folder for its files."""


def serve(words: Sequence[str], programs: Programs) -> bool:
    """Whether this process is one of the programs: `--program NAME FOLDER WARM`. If so it runs it, to the end."""
    if words[:1] != ["--program"]:
        return False
    import torch

    _, name, folder, warm = words
    sys.stdout = sys.stderr  # what libraries print is no answer
    torch.set_num_threads(1)
    programs[name](Held(int(warm)), folder)
    return True


# ---- outside


class Program:
    """The other end of such a process."""

    def __init__(self, script: str, name: str, folder: str, warm: int) -> None:
        words = [sys.executable, "-W", "ignore", script, "--program", name, folder, str(warm)]
        self.name = name
        self.process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.warm = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"{self.name} ended with {self.process.wait()}")

    def turn(self, steps: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Measured:
    """What each program did in each of its turns."""

    def __init__(self, turns: dict[str, list[dict[str, Any]]]) -> None:
        self.turns = turns
        self.times = {name: [1e6 * t["seconds"] / t["steps"] for t in found] for name, found in turns.items()}
        """Microseconds an environment step."""

    def ratio(self, slow: str, fast: str) -> str:
        """How many times the time of `fast` the other takes."""
        pairs = np.array(self.times[slow]) / np.array(self.times[fast])
        drawn = np.random.default_rng(0).choice(pairs, (10_000, len(pairs)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        return f"{np.median(pairs):.2f}x ({low:.2f}-{high:.2f})"

    def row(self, name: str) -> str:
        last, times = self.turns[name][-1], self.times[name]
        low, middle, high = np.percentile(times, [25, 50, 75])
        cells = [f"{middle:,.0f} ({low:,.0f}-{high:,.0f})", f"{1e6 / middle:,.0f}"]
        cells += [f"{last['gradient_steps'] / last['steps']:.3g}", f"{last['parameters']:,}", f"{last['peak_mb']:,.0f}"]
        return f"| {name} | {' | '.join(cells)} |"

    def table(self) -> None:
        rounds = len(next(iter(self.times.values())))
        steps = next(iter(self.turns.values()))[0]["steps"]
        print(f"{rounds} rounds of {steps:,} environment steps for each program, one thread; medians (quartiles)\n")
        columns = ["program", "us a step", "steps/s", "gradient steps a step", "parameters", "peak MB"]
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for name in self.times:
            print(self.row(name))
        sys.stdout.flush()


def turn_sizes(parser: argparse.ArgumentParser, rounds: int, steps: int, warm: int) -> None:
    """The words of a script whose programs take turns."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each program")
    parser.add_argument("--steps", type=int, default=steps, help="environment steps of a turn")
    parser.add_argument("--warm", type=int, default=warm, help="environment steps before the first turn")


def take_turns(script: str, names: Sequence[str], given: argparse.Namespace) -> Measured:
    """What `turn_sizes` asks for, of each program."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        programs = []
        try:
            for name in names:
                programs.append(Program(script, name, folder, given.warm))
                print(f"{name} is warm after {programs[-1].warm['seconds']:.1f} s", file=sys.stderr, flush=True)
            for number in range(given.rounds):
                first = number % len(programs)
                for program in programs[first:] + programs[:first]:
                    turns[program.name].append(program.turn(given.steps))
                shown = ", ".join(f"{n} {1e6 * t[-1]['seconds'] / t[-1]['steps']:.0f}" for n, t in turns.items())
                print(f"round {number + 1}/{given.rounds}: {shown} us a step", file=sys.stderr, flush=True)
        finally:
            for program in programs:
                program.close()
    work = {name: {(t["steps"], t["gradient_steps"]) for t in found} for name, found in turns.items()}
    assert len(set.union(*work.values())) == 1, f"not the same work: {work}"
    return Measured(turns)


def machine() -> str:
    """What the figures were measured on."""
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    found = ", ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium", "stable-baselines3"))
    processor = platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores{load}, Python {platform.python_version()}, {found}"


def beside_sb3(script: str, given: argparse.Namespace) -> None:
    """The table of "rlgym" beside "sb3"."""
    found = take_turns(script, ["rlgym", "sb3"], given)
    found.table()
    assert len({turns[-1]["parameters"] for turns in found.turns.values()}) == 1, "not the same network"
    print(f"\nStable-Baselines3 takes {found.ratio('sb3', 'rlgym')} the time of this program")


def only_beside_sb3(
    words: Sequence[str], script: str, doc: str, programs: Programs, rounds: int, steps: int, warm: int
) -> None:
    """The whole of a script that does nothing else."""
    if serve(words, programs):
        return
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    turn_sizes(parser, rounds, steps, warm)
    given = parser.parse_args(words)
    print(machine(), end="\n\n", flush=True)
    beside_sb3(script, given)


# ---- part by part


def timed(spent: dict[str, float], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, whose seconds are added to `spent[name]`."""

    def run(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        answer = call(*args, **kwargs)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
        return answer

    return run
