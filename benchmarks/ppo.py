"""PPO beside Stable-Baselines3: steps per second, time to a solved CartPole, and memory, measured on this machine.

    python benchmarks/ppo.py                        # every table, about half an hour
    python benchmarks/ppo.py speed --repeats 5      # one of: speed, fast, solve, lunar
    python benchmarks/ppo.py speed --threads 2

Every measurement is a process of its own; the programs take turns (A B A B ...), so that a machine whose speed drifts
favours neither. Tables give the median with minimum and maximum, and for ratios the median over the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMON = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2}
"""The same hyper-parameters for both programs in `speed`: 8 environments, 128 steps, 4 epochs of 4 minibatches, separate
64x64 tanh networks, learning rate 2.5e-4."""
LUNAR = {"n_steps": 128, "batch_size": 512, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "clip_range": 0.2}
SB3_SETTINGS: dict[str, dict[str, Any]] = {
    # "best setting" is whichever of these is fastest in the run at hand
    "8x128": {**COMMON, "n_envs": 8, "learning_rate": 1e-3},
    "zoo": {
        "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "n_envs": 8,
        "learning_rate": "lin_0.001", "clip_range": "lin_0.2",
    },
}  # fmt: skip


# ---- one measurement, in its own process


def run_rlgym(words: list[str], began: float) -> dict[str, Any]:
    """Train by the real command's code and read the times out of metrics.jsonl."""
    from rlgym.cli import main

    with tempfile.TemporaryDirectory() as folder:
        code = main(["train", f"run.dir={folder}/run", "display=quiet", "evaluate.every=0", "checkpoint.every=0", *words])
        ended = time.time()
        assert code == 0, code
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
        wall = json.loads((Path(folder) / "run" / "summary.json").read_text())["wall_time_s"]
    rows = [row for row in rows if "time/iterations" in row]
    points = [(row["step"], row["time"], row.get("rollout/ep_rew_mean")) for row in rows]
    start = ended - points[-1][1]  # unused for rates; see solved()
    del start, wall
    return {"points": points, "began": began}


def run_sb3(env: str, settings: dict[str, Any], steps: int, seed: int, stop_at: float | None) -> dict[str, Any]:
    import numpy as np
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from torch import nn

    points: list[tuple[int, float, float | None]] = []
    clock = time.perf_counter()

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            recent = [info["r"] for info in self.model.ep_info_buffer]
            points.append((self.num_timesteps, time.perf_counter() - clock, float(np.mean(recent)) if recent else None))

        def _on_step(self) -> bool:
            if stop_at is None or len(self.model.ep_info_buffer) < 100:
                return True
            return bool(np.mean([info["r"] for info in self.model.ep_info_buffer]) < stop_at)

    def schedule(value: Any) -> Any:
        if isinstance(value, str):
            top = float(value.removeprefix("lin_"))
            return lambda left: left * top
        return value

    settings = {key: schedule(value) for key, value in settings.items()}
    venv = make_vec_env(env, n_envs=settings.pop("n_envs"), seed=seed)
    clock = time.perf_counter()
    arch = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": nn.Tanh}
    model = PPO("MlpPolicy", venv, seed=seed, device="cpu", policy_kwargs=arch, verbose=0, **settings)
    model.learn(steps, callback=Watch())
    recent = [info["r"] for info in model.ep_info_buffer]
    points.append((model.num_timesteps, time.perf_counter() - clock, float(np.mean(recent))))
    return {"points": points}
