"""SAC on Pendulum-v1 beside Stable-Baselines3.

    python benchmarks/sac.py                # one thread: about three minutes
    python benchmarks/sac.py --rounds 30 --steps 500

RL Baselines3 Zoo's values in both programs: actor and two critics of 256-256 with ReLU, one environment, one gradient
step of 256 transitions after every environment step, the temperature learned. This program is its real command, loop
and logging included; Stable-Baselines3 its own `learn`. Programs take turns (benchmarks/turns.py), measured from step
1,000 on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from turns import Held, only_beside_sb3, run_rlgym, run_sb3  # type: ignore[import-not-found]  # beside this

# rl-baselines3-zoo, hyperparams/sac.yml, Pendulum-v1; what it leaves out is Stable-Baselines3's default.
STEPS, WARM = 10_000_000, 1_000
ZOO: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 256,
    "buffer_size": 1_000_000,
    "learning_starts": 100,
    "gamma": 0.99,
    "tau": 0.005,
    "train_freq": 1,
    "gradient_steps": 1,
    "ent_coef": "auto",
}
WORDS = [
    *("agent=sac", "env=Pendulum-v1", "env.num_envs=1", "tuned=off", f"steps={STEPS}", "seed=1"),
    *("agent.net_arch=[256,256]", "agent.activation=relu"),
    *(f"agent.{key}={value}" for key, value in ZOO.items()),
]


def ours(held: Held, folder: str) -> None:
    run_rlgym(WORDS, held, folder)


def sb3(held: Held, folder: str) -> None:
    from stable_baselines3 import SAC
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("Pendulum-v1", n_envs=1, seed=1)
    model = SAC("MlpPolicy", env, seed=1, device="cpu", policy_kwargs={"net_arch": [256, 256]}, **ZOO)
    run_sb3(model, model.actor, STEPS, held)


def main(words: Sequence[str]) -> None:
    only_beside_sb3(words, __file__, __doc__, {"rlgym": ours, "sb3": sb3}, rounds=15, steps=500, warm=WARM)


if __name__ == "__main__":
    main(sys.argv[1:])
