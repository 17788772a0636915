"""What PPO does on a CUDA GPU: its tests there, then steps per second beside the CPU's.

    python benchmarks/gpu.py

Small networks (CartPole, 8 and 1,024 environments) and 84x84 images through the Nature CNN (an environment of random
images, so that the network is what is measured), eager and compiled. Under ten minutes; prints a table.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlgym.agents.config import PPOConfig
from rlgym.agents.ppo import PPO
from rlgym.config import EnvConfig, TrainConfig


class Images(gym.Env[Any, Any]):
    """Random 4x84x84 images that cost nothing to make."""

    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def __init__(self) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (64, 4, 84, 84), np.uint8)
        self.now = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = 0
        return self.images[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.now += 1
        return self.images[self.now % 64], float(action == 0), False, self.now >= 200, {}


CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "CartPole-v1, 8 envs, batch 256": ("CartPole-v1", 8, {"n_steps": 128, "batch_size": 256}),
    "CartPole-v1, 1024 envs, batch 8192": ("CartPole-v1", 1024, {"n_steps": 32, "batch_size": 8192}),
    "84x84 images, 32 envs, batch 1024": ("RandomImages-v0", 32, {"n_steps": 128, "batch_size": 1024}),
}


def steps_per_second(env: str, num_envs: int, knobs: dict[str, Any], device: str, compile: str) -> list[float]:
    config = TrainConfig(steps=10**7, device=device, compile=compile, env=EnvConfig(env, num_envs, backend="auto"))
    config.agent = PPOConfig(**knobs)
    learner = PPO(config)
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < 10 and time.perf_counter() - began < 40:
        at, step = time.perf_counter(), learner.progress.step
        learner.update()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        rates.append((learner.progress.step - step) / (time.perf_counter() - at))
    learner.close()
    return rates[3:] or rates[-1:]


def main() -> None:
    gym.register("RandomImages-v0", entry_point=lambda **_: Images())
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    if torch.cuda.is_available():
        tests = Path(__file__).resolve().parent.parent / "tests" / "agents" / "test_gpu.py"
        subprocess.run([sys.executable, "-m", "pytest", "-q", str(tests)], check=False)
    print("| case | device | compile | steps/s (min-max) |\n|---|---|---|---|", flush=True)
    for case, (env, num_envs, knobs) in CASES.items():
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            for compile in ("off", "on"):
                rates = steps_per_second(env, num_envs, knobs, device, compile)
                middle = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"
                print(f"| {case} | {device} | {compile} | {middle} |", flush=True)


if __name__ == "__main__":
    main()
