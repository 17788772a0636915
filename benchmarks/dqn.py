"""DQN on CartPole-v1 beside Stable-Baselines3, what its extensions cost, and where its time goes.

    python benchmarks/dqn.py                        # every part, one thread: about ten minutes
    python benchmarks/dqn.py speed --rounds 20      # some of: speed, extensions, parts

speed: RL Baselines3 Zoo's values for CartPole-v1 in both programs, the same network (4-256-256-2, ReLU, checked by its
number of parameters), one environment, 128 gradient steps of 64 transitions after every 256 environment steps. This
program is its real command, loop and logging included; Stable-Baselines3 its own `learn`. extensions: this program
with n-step returns, prioritised replay, C51 and the others switched on one by one, beside itself without them. parts:
plain DQN taken apart, beside the arithmetic that it cannot do without.

Programs take turns (benchmarks/turns.py). Measured from step 10,240 on, when exploration has come down to its end.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from turns import (  # type: ignore[import-not-found]  # beside this
    Held,
    Programs,
    beside_sb3,
    machine,
    run_rlgym,
    run_sb3,
    serve,
    take_turns,
    timed,
    turn_sizes,
)

# rl-baselines3-zoo, hyperparams/dqn.yml, CartPole-v1. Its 5e4 steps are the first of ten million here, so that no turn
# lacks steps; exploration comes down over the same 8,000.
STEPS, WARM = 10_000_000, 10_240
ZOO: dict[str, Any] = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16 * 50_000 / STEPS,
    "exploration_final_eps": 0.04,
}
WORDS = [
    *("agent=dqn", "env=CartPole-v1", "env.num_envs=1", "tuned=off", f"steps={STEPS}", "seed=1"),
    *("agent.net_arch=[256,256]", "agent.activation=relu"),
    *(f"agent.{key}={value}" for key, value in ZOO.items()),
]
EXTENSIONS = {
    "n_step=3": ["agent.n_step=3"],
    "prioritized": ["agent.prioritized=true"],
    "c51": ["agent.distributional=c51"],
    "n_step=3, prioritized, c51": ["agent.n_step=3", "agent.prioritized=true", "agent.distributional=c51"],
    "double": ["agent.double=true"],
    "dueling": ["agent.dueling=true"],
    "noisy": ["agent.noisy=true"],
    "qr": ["agent.distributional=qr"],
}


def ours(words: list[str], held: Held, folder: str) -> None:
    run_rlgym([*WORDS, *words], held, folder)


def sb3(held: Held, folder: str) -> None:
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("CartPole-v1", n_envs=1, seed=1)
    model = DQN("MlpPolicy", env, seed=1, device="cpu", policy_kwargs={"net_arch": [256, 256]}, **ZOO)
    run_sb3(model, model.q_net, STEPS, held)


PROGRAMS: Programs = {
    "rlgym": partial(ours, []),
    "sb3": sb3,
    **{name: partial(ours, words) for name, words in EXTENSIONS.items()},
}


def speed(given: argparse.Namespace) -> None:
    beside_sb3(__file__, given)


def extensions(given: argparse.Namespace) -> None:
    found = take_turns(__file__, ["rlgym", *EXTENSIONS], given)
    found.table()
    print("\n| beside plain DQN | time a step |\n|---|---|")
    for name in EXTENSIONS:
        print(f"| {name} | {found.ratio(name, 'rlgym')} |")


# ---- part by part


def parts(given: argparse.Namespace) -> None:
    """One process, as the loop drives the learner; medians over updates, in microseconds an environment step."""
    from rlgym.config.compose import compose
    from rlgym.training.train import build_learner

    torch.set_num_threads(1)
    learner: Any = build_learner(compose([*WORDS, "threads=1", "device=cpu", "display=quiet"], "train"))
    spent: dict[str, float] = {}

    owners = {
        "act": (learner, "explore"),
        "environment": (learner.env, "step"),
        "store": (learner.replay, "add"),
        "sample": (learner, "sample"),
        "gradient steps": (learner, "learn"),
    }
    for name, (owner, attribute) in owners.items():
        setattr(owner, attribute, timed(spent, name, getattr(owner, attribute)))
    rows: dict[str, list[float]] = {}
    while learner.progress.step < given.warm:
        learner.update()
    for _ in range(given.rounds * 4):
        spent.clear()
        began = time.perf_counter()
        learner.update()
        spent["update"] = time.perf_counter() - began
        for name, seconds in spent.items():
            rows.setdefault(name, []).append(seconds)
    learner.close()
    steps, gradient_steps = ZOO["train_freq"], ZOO["gradient_steps"]
    print("| part | us a step | us a gradient step |\n|---|---|---|")
    for name in ["update", *owners]:
        seconds = statistics.median(rows[name])
        each = f"{1e6 * seconds / gradient_steps:,.0f}" if name in ("sample", "gradient steps") else ""
        print(f"| {name} | {1e6 * seconds / steps:,.1f} | {each} |")
    least = arithmetic(ZOO["batch_size"])
    print("\n| the arithmetic of a gradient step | us |\n|---|---|")
    for name, value in least.items():
        print(f"| {name} | {value:,.0f} |")
    floor, act = sum(least.values()), sum(products(1, backward=False).values())
    whole = 1e6 * statistics.median(rows["update"]) / steps
    limit = floor * gradient_steps / steps + act
    print(
        f"\nThe network of one state, by itself: {act:.0f} us. So a step cannot take less than {limit:.0f} us, which is"
    )
    print(f"{1e6 / limit:,.0f} steps/s; it takes {whole:.0f} us, {limit / whole:.0%} of that limit's speed.")


def arithmetic(batch: int) -> dict[str, float]:
    """The matrix products, activations and the optimiser's sweep over memory of one gradient step, each by itself."""
    forward, both = products(batch, backward=False), products(batch, backward=True)
    hidden, out = torch.randn(batch, 256), torch.empty(batch, 256)
    relu = median_us(lambda: torch.clamp(hidden, min=0, out=out))
    weights = torch.nn.Parameter(torch.randn(4 * 256 + 256 + 256 * 256 + 256 + 256 * 2 + 2))
    weights.grad = torch.randn_like(weights)
    adam = torch.optim.Adam([weights], lr=1e-9, fused=True)
    return {
        "products, target network": sum(forward.values()),
        "products, network, forward and backward": sum(both.values()),
        "activations, 4 forward and 2 backward": 6 * relu,
        "Adam, fused, one flat vector of 67,586": median_us(adam.step),
    }


def products(batch: int, backward: bool) -> dict[str, float]:
    """Microseconds of each layer's products for a batch."""
    found = {}
    with torch.no_grad():
        for inputs, outputs in ((4, 256), (256, 256), (256, 2)):
            x, weight, gradient = torch.randn(batch, inputs), torch.randn(outputs, inputs), torch.randn(batch, outputs)
            y, dx, dw = torch.empty(batch, outputs), torch.empty(batch, inputs), torch.empty(outputs, inputs)
            calls: list[Callable[[], Tensor]] = [partial(torch.mm, x, weight.t(), out=y)]
            if backward:
                calls.append(partial(torch.mm, gradient.t(), x, out=dw))
                if inputs != 4:  # nobody asks for the observations' gradient
                    calls.append(partial(torch.mm, gradient, weight, out=dx))
            found[f"{inputs} to {outputs}"] = sum(median_us(call) for call in calls)
    return found


def median_us(call: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(1_000):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1e6 * statistics.median(seconds)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {"speed": speed, "extensions": extensions, "parts": parts}


def main(words: Sequence[str]) -> None:
    if serve(words, PROGRAMS):
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    turn_sizes(parser, rounds=15, steps=2_048, warm=WARM)
    given = parser.parse_args(words)
    if wrong := [part for part in given.parts if part not in PARTS]:
        parser.error(f"{', '.join(wrong)}: parts are {', '.join(PARTS)}")
    print(machine())
    for name in given.parts or PARTS:
        print(f"\n### {name}\n", flush=True)
        PARTS[name](given)


if __name__ == "__main__":
    main(sys.argv[1:])
