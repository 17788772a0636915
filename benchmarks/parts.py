"""Where a PPO update's time goes, part by part, on CartPole-v1: what remains above the arithmetic.

    python benchmarks/parts.py                  # 8 environments x 128 steps, 4 epochs of 256
    python benchmarks/parts.py --num-envs 1024 --n-steps 32 --batch-size 8192

Times one thread; medians over updates, in microseconds an environment step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from turns import timed  # type: ignore[import-not-found]  # beside this

from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.agents.ppo import PPO
from rlgym.config.schema import EnvConfig, TrainConfig


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--n-steps", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--n-epochs", type=int, default=4)
    parser.add_argument("--updates", type=int, default=40, help="of which the first eighth is left out")
    given = parser.parse_args(words)
    knobs = PPOConfig(n_steps=given.n_steps, batch_size=given.batch_size, n_epochs=given.n_epochs)
    learner = PPO(TrainConfig(steps=10**9, compile="off", env=EnvConfig("CartPole-v1", given.num_envs), agent=knobs))
    spent: dict[str, float] = {}

    parts = {
        "rollout": (learner.rollout, "collect"),
        "  acting (NumPy network, sampling)": (learner.policy, "choose"),
        "  environment": (learner.env, "step"),
        "values, log-probabilities, advantages": (learner, "batch"),
        "epochs": (learner, "epochs"),
        "  loss, forward": (learner, "loss"),
        "  backward, clipping, Adam": (learner.optimizer, "step"),
    }
    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, timed(spent, name, getattr(owner, attribute)))
    rows: dict[str, list[float]] = {}
    for _ in range(given.updates):
        spent.clear()
        began = time.perf_counter()
        learner.update()
        spent["update"] = time.perf_counter() - began
        for name, seconds in spent.items():
            rows.setdefault(name, []).append(seconds)
    steps = given.num_envs * given.n_steps
    gradient_steps = given.n_epochs * -(-steps // given.batch_size)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {steps} steps an update\n")
    print("| part | us a step | us a gradient step |\n|---|---|---|")
    for name in ["update", *parts]:
        seconds = statistics.median(rows[name][given.updates // 8 :])
        each = (
            f"{1e6 * seconds / gradient_steps:,.0f}" if "epochs" in name or "forward" in name or "back" in name else ""
        )
        print(f"| {name.replace('  ', '&nbsp;&nbsp;')} | {1e6 * seconds / steps:.2f} | {each} |")
    floor(given.batch_size)


def floor(batch: int) -> None:
    """What the arithmetic alone costs: the large products and tanh of one gradient step, each timed by itself."""
    x, w, out = torch.randn(batch, 64), torch.randn(64, 64), torch.empty(batch, 64)
    with torch.no_grad():
        product = median_us(lambda: torch.mm(x, w, out=out))
        tanh = median_us(lambda: torch.tanh(x, out=out))
    # actor and critic: one 64x64 product forward and two backward each, two tanh forward each
    print(f"\na {batch}x64x64 product {product:.0f} us, tanh of {batch}x64 {tanh:.0f} us:", end=" ")
    print(f"6 products and 4 tanh are {6 * product + 4 * tanh:.0f} us of a gradient step")


def median_us(call: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(2_000):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1e6 * statistics.median(seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
