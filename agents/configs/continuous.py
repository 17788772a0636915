"""Hyper-parameters of SAC and TD3, named as in Stable-Baselines3 where they mean the same. Imports no torch, since
`--help` reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlgym.config.schema import knob


@dataclass
class ContinuousConfig:
    """Hyper-parameters common to SAC and TD3."""

    name: str = knob("", "the agent's name in the registry, or module:Class")
    learning_rate: float = knob(3e-4, "Adam's step size at the start, of all networks", gt=0)
    learning_rate_schedule: str = knob(
        "constant", "schedule: linear to zero over the budget, or constant", choices=("linear", "constant")
    )
    adam_eps: float = knob(1e-8, "Adam's epsilon", gt=0)
    buffer_size: int = knob(1_000_000, "capacity of the replay in transitions, all environments together", gt=0)
    save_replay: bool = knob(True, "keep the replay in checkpoints; without it a resume starts with an empty one")
    learning_starts: int = knob(100, "random transitions before the first gradient step", ge=0)
    batch_size: int = knob(256, "transitions in one gradient step", gt=0)
    tau: float = knob(0.005, "Polyak step of the target networks (1: a copy)", gt=0, le=1)
    gamma: float = knob(0.99, "discount factor", ge=0, le=1)
    n_step: int = knob(1, "n of the n-step return: rewards summed before bootstrapping", gt=0)
    train_freq: int = knob(1, "transitions gathered between updates", gt=0)
    gradient_steps: int = knob(1, "gradient steps for train_freq transitions; -1: one for each transition", ge=-1)
    n_critics: int = knob(2, "critics; targets take their minimum", gt=0, le=1_000)
    net_arch: list[int] = knob([256, 256], "widths of the hidden layers of actor and of each critic", gt=0)
    activation: str = knob("relu", "activation function of the hidden layers", choices=("tanh", "relu"))

    def __post_init__(self) -> None:
        if self.gradient_steps == 0:
            raise ValueError("gradient_steps=0 would learn nothing; give a number of steps, or -1 for one a transition")


@dataclass
class SACConfig(ContinuousConfig):
    """Soft Actor-Critic (Haarnoja et al. 2018, arXiv:1812.05905)."""

    name: str = knob("sac", "the agent's name in the registry, or module:Class")
    ent_coef: str = knob("auto", "weight of the entropy: learned (auto, or auto_0.1 to begin at 0.1), or a number")
    target_entropy: str = knob(
        "auto", "target of a learned weight; auto: minus the action's dimensions", needs="ent_coef=auto*"
    )
    target_update_interval: int = knob(1, "gradient steps between target updates", gt=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _number(self.ent_coef.removeprefix("auto_"), at_least=0.0) and self.ent_coef != "auto":
            raise ValueError(f"ent_coef={self.ent_coef} is none of auto, auto_0.1 (where it begins), or a number >= 0")
        if self.ent_coef.startswith("auto_") and float(self.ent_coef.removeprefix("auto_")) == 0:
            raise ValueError(f"ent_coef={self.ent_coef}: a learned coefficient begins above 0, as in auto_0.1")
        if self.target_entropy != "auto" and not _number(self.target_entropy):
            raise ValueError(f"target_entropy={self.target_entropy} is neither auto nor a number")


@dataclass
class TD3Config(ContinuousConfig):
    """Twin Delayed DDPG (Fujimoto et al. 2018, arXiv:1802.09477)."""

    name: str = knob("td3", "the agent's name in the registry, or module:Class")
    learning_rate: float = knob(1e-3, "Adam's step size at the start, of all networks", gt=0)
    net_arch: list[int] = knob([400, 300], "widths of the hidden layers of actor and of each critic", gt=0)
    policy_delay: int = knob(2, "gradient steps of the critics per step of the actor and per target update", gt=0)
    target_policy_noise: float = knob(0.2, "deviation of the noise on the target policy's actions", ge=0)
    target_noise_clip: float = knob(0.5, "bound of that noise", ge=0, needs="target_policy_noise!=0")
    action_noise_std: float = knob(0.1, "deviation of the exploration noise, where actions span [-1, 1]", ge=0)


def _number(text: str, at_least: float = -math.inf) -> bool:
    """Whether `text` is a finite number within the bound."""
    try:
        return at_least <= float(text) < math.inf
    except ValueError:
        return False
