"""DQN on ALE/Pong-v5 beside Stable-Baselines3: the speed of learning from pictures.

    python benchmarks/atari.py                # one thread: about five minutes

RL Baselines3 Zoo's values for Atari in both programs (NatureCNN, four stacked frames of 84 x 84, one gradient step of
32 transitions after every 4 steps), one environment, no sticky actions as the Zoo has it; learning begins after 1,000
steps in place of 100,000, so that every turn has its gradient steps, and the replay holds 20,000 transitions. This
program is its real command, loop and logging included; Stable-Baselines3 its own `learn`. Programs take turns
(benchmarks/turns.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from turns import Held, only_beside_sb3, run_rlgym, run_sb3  # type: ignore[import-not-found]  # beside this

# rl-baselines3-zoo, hyperparams/dqn.yml, atari; its 1e7 steps are this program's too.
STEPS, WARM = 10_000_000, 1_200
ZOO: dict[str, Any] = {
    "learning_rate": 1e-4,
    "batch_size": 32,
    "buffer_size": 20_000,
    "learning_starts": 1_000,
    "target_update_interval": 1_000,
    "train_freq": 4,
    "gradient_steps": 1,
    "exploration_fraction": 0.1,
    "exploration_final_eps": 0.01,
}
WORDS = [
    *("agent=dqn", "env=ALE/Pong-v5", "env.num_envs=1", "+env.kwargs.repeat_action_probability=0.0", "tuned=off"),
    *(f"steps={STEPS}", "seed=1", *(f"agent.{key}={value}" for key, value in ZOO.items())),
    "agent.net_arch=[]",  # behind the convolutions' 512 features the values, as in NatureCNN
]


def ours(held: Held, folder: str) -> None:
    run_rlgym(WORDS, held, folder)


def sb3(held: Held, folder: str) -> None:
    import ale_py
    import gymnasium as gym
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gym.register_envs(ale_py)
    kwargs = {"frameskip": 1, "repeat_action_probability": 0.0}
    env = VecFrameStack(make_atari_env("ALE/Pong-v5", n_envs=1, seed=1, env_kwargs=kwargs), n_stack=4)
    model = DQN("CnnPolicy", env, seed=1, device="cpu", **ZOO)
    run_sb3(model, model.q_net, STEPS, held)


def main(words: Sequence[str]) -> None:
    only_beside_sb3(words, __file__, __doc__, {"rlgym": ours, "sb3": sb3}, rounds=8, steps=200, warm=WARM)


if __name__ == "__main__":
    main(sys.argv[1:])
