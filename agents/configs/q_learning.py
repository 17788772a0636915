"""Hyper-parameters of the Q-learning agents, named as in Stable-Baselines3 where they mean the same. Imports no torch,
since `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlgym.config.schema import knob

NAME = "the agent's name in the registry, or module:Class"
EXPLORATION = {
    "initial": "probability of a random action at the start",
    "final": "probability of a random action once it has come down",
    "fraction": "share of the budget over which it comes down, along a line",
}


@dataclass
class DQNConfig:
    """Deep Q-learning (Mnih et al. 2015, doi:10.1038/nature14236) and its later extensions, each optional."""

    name: str = knob("dqn", NAME)
    learning_rate: float = knob(1e-4, "Adam's step size at the start", gt=0)
    learning_rate_schedule: str = knob(
        "constant", "schedule: linear to zero over the budget, or constant", choices=("linear", "constant")
    )
    adam_eps: float = knob(1e-8, "Adam's epsilon", gt=0)
    max_grad_norm: float = knob(10.0, "gradients are scaled down to this norm", gt=0)
    buffer_size: int = knob(1_000_000, "capacity of the replay in transitions, all environments together", gt=0)
    batch_size: int = knob(32, "transitions in one gradient step", gt=0)
    learning_starts: int = knob(100, "random transitions before the first gradient step", ge=0)
    train_freq: int = knob(4, "transitions gathered between updates", gt=0)
    gradient_steps: int = knob(1, "gradient steps for train_freq transitions; -1: one for each transition", ge=-1)
    gamma: float = knob(0.99, "discount factor", ge=0, le=1)
    target_update_interval: int = knob(10_000, "transitions between updates of the target network", gt=0)
    tau: float = knob(1.0, "Polyak step of the target network (1: a copy)", gt=0, le=1)
    exploration_initial_eps: float = knob(1.0, EXPLORATION["initial"], ge=0, le=1)
    exploration_final_eps: float = knob(0.05, EXPLORATION["final"], ge=0, le=1)
    exploration_fraction: float = knob(0.1, EXPLORATION["fraction"], ge=0, le=1)
    double: bool = knob(
        False, "double Q-learning: the online network selects the next action, the target network evaluates it"
    )
    dueling: bool = knob(False, "dueling network: a state's value plus each action's advantage")
    n_step: int = knob(1, "n of the n-step return: rewards summed before bootstrapping", gt=0)
    prioritized: bool = knob(False, "draw transitions in proportion to their TD error instead of uniformly")
    priority_alpha: float = knob(
        0.6, "prioritized: exponent of the error; 0: uniform", ge=0, le=1, needs="prioritized=true"
    )
    priority_beta: float = knob(
        0.4,
        "prioritized: exponent of the importance weights at the start; 1 at the end",
        ge=0,
        le=1,
        needs="prioritized=true",
    )
    noisy: bool = knob(
        False, "noisy networks: explore by learned noise on the weights; best with exploration_initial_eps=0"
    )
    noisy_std: float = knob(
        0.5, "noisy: initial deviation times the square root of the layer's inputs", ge=0, needs="noisy=true"
    )
    distributional: str = knob(
        "none",
        "learn the mean of the return (none), its distribution over fixed values (c51) or its quantiles (qr)",
        choices=("none", "c51", "qr"),
    )
    atoms: int = knob(51, "c51: number of atoms", gt=1, needs="distributional=c51")
    v_min: float = knob(-10.0, "c51: smallest value", needs="distributional=c51")
    v_max: float = knob(10.0, "c51: largest value", needs="distributional=c51")
    quantiles: int = knob(200, "qr: number of quantiles", gt=0, needs="distributional=qr")
    net_arch: list[int] = knob([64, 64], "widths of the hidden layers", gt=0)
    activation: str = knob("relu", "activation function of the hidden layers", choices=("tanh", "relu"))
    save_replay: bool = knob(True, "keep the replay in checkpoints; without it a resume starts with an empty one")

    def __post_init__(self) -> None:
        if self.gradient_steps == 0:
            raise ValueError("gradient_steps=0 would learn nothing; give a number of steps, or -1 for one a transition")
        if self.v_min >= self.v_max:
            raise ValueError(f"v_min={self.v_min} must be below v_max={self.v_max}")
        if self.v_max - self.v_min > 1e38:
            raise ValueError(f"v_min={self.v_min} and v_max={self.v_max} are too far apart")


def _changed(name: str, default: Any) -> Any:
    """The field of DQNConfig with another default."""
    return field(default=default, metadata=DQNConfig.__dataclass_fields__[name].metadata)


@dataclass
class RainbowConfig(DQNConfig):
    """DQN with all of its parts, and the values of Hessel et al. 2018 (arXiv:1710.02298, table 1; counts of frames
    there are counts of transitions, a fourth, here)."""

    name: str = knob("rainbow", NAME)
    learning_rate: float = _changed("learning_rate", 6.25e-5)
    adam_eps: float = _changed("adam_eps", 1.5e-4)
    learning_starts: int = _changed("learning_starts", 20_000)
    target_update_interval: int = _changed("target_update_interval", 8_000)
    exploration_initial_eps: float = _changed("exploration_initial_eps", 0.0)
    exploration_final_eps: float = _changed("exploration_final_eps", 0.0)
    double: bool = _changed("double", True)
    dueling: bool = _changed("dueling", True)
    n_step: int = _changed("n_step", 3)
    prioritized: bool = _changed("prioritized", True)
    priority_alpha: float = _changed("priority_alpha", 0.5)
    noisy: bool = _changed("noisy", True)
    distributional: str = _changed("distributional", "c51")


@dataclass
class PQNConfig:
    """Parallel Q-learning (Gallici et al. 2024, arXiv:2407.04811)."""

    name: str = knob("pqn", NAME)
    n_steps: int = knob(32, "steps of each environment in one rollout", gt=0)
    batch_size: int = knob(64, "transitions in one minibatch", gt=0)
    n_epochs: int = knob(2, "passes over a rollout", gt=0)
    learning_rate: float = knob(2.5e-4, "Adam's step size at the start", gt=0)
    learning_rate_schedule: str = knob(
        "linear", "schedule: linear to zero over the budget, or constant", choices=("linear", "constant")
    )
    adam_eps: float = knob(1e-5, "Adam's epsilon", gt=0)
    max_grad_norm: float = knob(10.0, "gradients are scaled down to this norm", gt=0)
    gamma: float = knob(0.99, "discount factor", ge=0, le=1)
    q_lambda: float = knob(0.65, "lambda of the returns; 0: one-step targets", ge=0, le=1)
    exploration_initial_eps: float = knob(1.0, EXPLORATION["initial"], ge=0, le=1)
    exploration_final_eps: float = knob(0.05, EXPLORATION["final"], ge=0, le=1)
    exploration_fraction: float = knob(0.5, EXPLORATION["fraction"], ge=0, le=1)
    net_arch: list[int] = knob([128, 128], "widths of the hidden layers, each with layer normalisation", gt=0)
    activation: str = knob("relu", "activation function of the hidden layers", choices=("tanh", "relu"))
