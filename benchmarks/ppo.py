"""PPO beside Stable-Baselines3: steps per second, time to a solved CartPole, and memory, on this machine.

    python benchmarks/ppo.py                                # every table at one thread: half an hour
    python benchmarks/ppo.py speed fast --repeats 7         # some of: speed, fast, solve, lunar
    python benchmarks/ppo.py speed --threads 2

Every measurement is a process of its own, and the programs take turns (A B A B ...), so that a machine whose speed
drifts favours neither. Tables give medians with minimum and maximum; a ratio is the median over the pairs of turns.
"Steps/s" starts after the fifth update (compiling, if any, lies before), in a run of fewer before the last. "To 475"
is when a mean return over 100 episodes first reaches 475: in `solve`, of 100 fresh greedy episodes played every 1,024
steps while the clock stands still, the same way for both programs; in `window`, of the last 100 training episodes.
Seconds count from the start of training (networks and environments made) and, in the other column, from the start of
the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Point = tuple[int, float, float | None]  # environment steps, clock (time.time), mean return over 100 episodes

# Equal hyper-parameters for both: 8 environments, 128 steps, 4 epochs of 4 minibatches, separate 64x64 tanh networks.
EQUAL = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2}
RLGYM_EQUAL = ["tuned=off", "agent.learning_rate=2.5e-4", "agent.learning_rate_schedule=constant"]
# LunarLander-v3 at the Zoo's sizes, 16 environments.
LUNAR = {"n_steps": 1024, "batch_size": 64, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01}

# Stable-Baselines3's own ways to a solved CartPole: the best of them in a run is its "best setting".
SB3_8X128 = {"stop": True, "env": "CartPole-v1", "steps": 150_000, "n_envs": 8, "learning_rate": 1e-3, **EQUAL}
SB3_ZOO = {
    **{
        "stop": True,
        "env": "CartPole-v1",
        "steps": 100_000,
        "n_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "n_epochs": 20,
    },
    **{"gamma": 0.98, "gae_lambda": 0.8, "learning_rate": "linear 1e-3", "clip_range": "linear 0.2"},
}

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "speed": {
        "rlgym": {"words": ["env=CartPole-v1", *RLGYM_EQUAL], "steps": 150_000},
        "sb3": {"env": "CartPole-v1", "steps": 60_000, "n_envs": 8, "learning_rate": 2.5e-4, **EQUAL},
    },
    "fast": {
        "rlgym cartpole_fast": {"words": ["experiment=cartpole_fast"]},
        "sb3": {"env": "CartPole-v1", "steps": 60_000, "n_envs": 8, "learning_rate": 2.5e-4, **EQUAL},
    },
    "solve": {
        "rlgym": {"words": ["env=CartPole-v1"], "greedy": True},
        "sb3 8x128": {**SB3_8X128, "greedy": True},
        "sb3 zoo": {**SB3_ZOO, "greedy": True},
    },
    "window": {"rlgym": {"words": ["env=CartPole-v1"]}, "sb3 8x128": SB3_8X128, "sb3 zoo": SB3_ZOO},
    "lunar": {
        "rlgym": {
            "words": ["env=LunarLander-v3", "env.num_envs=16", *RLGYM_EQUAL]
            + [f"agent.{key}={value}" for key, value in LUNAR.items()],
            "steps": 100_000,
        },
        "sb3": {"env": "LunarLander-v3", "steps": 100_000, "n_envs": 16, "learning_rate": 2.5e-4, **LUNAR},
    },
}
SOLVED = 475.0
EPISODES = 100


class Evaluator:
    """Plays 100 greedy episodes every 1,024 steps, and knows how long that took in all."""

    def __init__(self) -> None:
        from rlgym.config.schema import EnvConfig
        from rlgym.envs.make import make_env

        self.env = make_env(EnvConfig("CartPole-v1", EPISODES))
        self.next, self.paused = 1_024, 0.0

    def __call__(self, step: int, policy: Any) -> float | None:
        if step < self.next:
            return None
        from rlgym.envs.episodes import evaluate_policy

        began = time.time()
        self.next = (step // 1_024 + 1) * 1_024
        found = evaluate_policy(policy, self.env, EPISODES, 10**6 + step).metrics["eval/mean_reward"]
        self.paused += time.time() - began
        return found


class Greedy:
    """Stable-Baselines3's model as the evaluator plays it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def start(self, envs: int) -> None:
        pass

    def ended(self, rows: Sequence[int]) -> None:
        pass

    def act(self, obs: Any, mask: Any = None, sampler: Any = None) -> Any:
        return self.model.predict(obs["obs"], deterministic=True)[0]


# ---- one measurement, in a process of its own


def measure_rlgym(settings: dict[str, Any], seed: int, threads: int, evaluator: Evaluator | None) -> list[Point]:
    """The real command's own code, every update's log point stamped with the clock."""
    from rlgym.agents.ppo import PPO
    from rlgym.cli.main import main
    from rlgym.training.tracker import Tracker

    points: list[Point] = []
    log, update = Tracker.log, PPO.update

    def first_stamped(self: Any) -> Any:
        if not points:
            points.append((0, time.time(), None))
        self_policy.append(self.policy)
        return update(self)

    def stamped(self: Tracker, step: int, seconds: float, metrics: Any) -> None:
        log(self, step, seconds, metrics)
        if evaluator is None:
            points.append((step, time.time(), metrics.get("rollout/ep_rew_mean")))
        else:
            at = time.time() - evaluator.paused
            points.append((step, at, evaluator(step, self_policy[-1])))

    self_policy: list[Any] = []
    PPO.update = first_stamped  # type: ignore[method-assign]
    Tracker.log = stamped  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["display=quiet", "log.every=1", "evaluate.every=0", "evaluate.episodes=1", "checkpoint.every=0"]
        steps = [f"steps={settings['steps']}"] if "steps" in settings else []
        words = [*settings["words"], *steps, *quiet, f"seed={seed}", f"threads={threads}", f"run.dir={folder}/run"]
        code = main(["train", *words])
    assert code == 0, f"rlgym ended with {code}"
    return points


def measure_sb3(settings: dict[str, Any], seed: int, threads: int, evaluator: Evaluator | None) -> list[Point]:
    import numpy as np
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from torch import nn

    torch.set_num_threads(threads)
    points: list[Point] = []

    class Stamp(BaseCallback):
        def _on_rollout_start(self) -> None:
            if evaluator is not None:
                at = time.time() - evaluator.paused
                points.append((self.num_timesteps, at, evaluator(self.num_timesteps, Greedy(self.model))))
                return
            recent = [info["r"] for info in self.model.ep_info_buffer or ()]
            points.append((self.num_timesteps, time.time(), float(np.mean(recent)) if len(recent) == 100 else None))

        def _on_step(self) -> bool:
            return not stop or all(mean is None or mean < SOLVED for _, _, mean in points[-1:])

    def value(given: Any) -> Any:
        if isinstance(given, str) and given.startswith("linear "):
            top = float(given.removeprefix("linear "))
            return lambda left: left * top
        return given

    knobs = {key: value(given) for key, given in settings.items()}
    stop = knobs.pop("stop", False)
    environment, steps = knobs.pop("env"), knobs.pop("steps")
    envs = make_vec_env(environment, n_envs=knobs.pop("n_envs"), seed=seed)
    networks = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": nn.Tanh}
    model = PPO("MlpPolicy", envs, seed=seed, device="cpu", policy_kwargs=networks, **knobs)
    model.learn(steps, callback=Stamp())
    points.append((model.num_timesteps, time.time() - (evaluator.paused if evaluator else 0), None))
    return points


def figures(points: list[Point], process_began: float) -> dict[str, float | None]:
    """The figures of one measurement."""
    last = points[-1]
    warm = [point for point in points if point[0] < last[0]][:6][-1]
    solved = next(((step, at) for step, at, mean in points if mean is not None and mean >= SOLVED), None)
    return {
        "steps/s": (last[0] - warm[0]) / (last[1] - warm[1]),
        "steps to 475": solved[0] if solved else None,
        "s to 475": solved[1] - points[0][1] if solved else None,
        "s to 475 with process start": solved[1] - process_began if solved else None,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def one(case: str, program: str, seed: int, threads: int, steps: int, process_began: float) -> None:
    settings = CASES[case][program] | ({"steps": steps} if steps else {})
    began = time.time()
    evaluator = Evaluator() if settings.pop("greedy", False) else None
    if evaluator is not None and "words" not in settings:
        evaluator.paused = time.time() - began  # the other program would not have loaded this
    measure = measure_rlgym if "words" in settings else measure_sb3
    print(json.dumps(figures(measure(settings, seed, threads, evaluator), process_began)))


# ---- the table


def spawn(case: str, program: str, seed: int, threads: int, steps: int) -> dict[str, float | None]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    numbers = [str(seed), str(threads), str(steps), repr(time.time())]
    words = [sys.executable, __file__, "--one", case, program, *numbers]
    root = Path(__file__).resolve().parent.parent
    answer = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{program}: {answer.stderr}")
    found: dict[str, float | None] = json.loads(answer.stdout.splitlines()[-1])
    return found


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    digits = 0 if statistics.median(values) >= 100 else 2
    middle, low, high = (f"{v:,.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low}-{high})"


def table(case: str, repeats: int, threads: int, steps: int) -> None:
    programs = list(CASES[case])
    found: dict[str, list[dict[str, float | None]]] = {program: [] for program in programs}
    for repeat in range(repeats):
        for program in programs:  # in turn, a seed each round
            found[program].append(spawn(case, program, repeat + 1, threads, steps))
            print(f"{case} {repeat + 1}/{repeats} {program}: {found[program][-1]}", file=sys.stderr)
    columns = list(found[programs[0]][0])
    print(f"\n### {case}: {threads} thread(s), {repeats} turns, seeds 1-{repeats}\n")
    print(f"| program | {' | '.join(columns)} | solved |")
    print("|---" * (len(columns) + 2) + "|")
    for program, turns in found.items():
        cells = [spread([v for turn in turns if (v := turn[column]) is not None]) for column in columns]
        solved = sum(turn["s to 475"] is not None for turn in turns)
        print(f"| {program} | {' | '.join(cells)} | {solved}/{repeats} |")
    first = programs[0]
    for other in programs[1:]:
        for column in columns:
            pairs = [(a[column], b[column]) for a, b in zip(found[first], found[other], strict=True)]
            ratios = [a / b for a, b in pairs if a is not None and b is not None]
            if ratios:
                print(f"\n{column}, {first} / {other}: {spread(ratios)} over {len(ratios)} pairs")


def main(words: Sequence[str]) -> None:
    if words[:1] == ["--one"]:
        _, case, program, seed, threads, steps, began = words
        one(case, program, int(seed), int(threads), int(steps), float(began))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0, help="environment steps of each program; 0: the case's own")
    given = parser.parse_args(words)
    if wrong := [case for case in given.cases if case not in CASES]:
        parser.error(f"{wrong[0]}: one of {', '.join(CASES)}")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for case in given.cases:
        table(case, given.repeats, given.threads, given.steps)


if __name__ == "__main__":
    main(sys.argv[1:])
