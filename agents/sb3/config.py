"""The knobs of Stable-Baselines3's agents, with its own names and defaults. Free of torch: help reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlgym.config.schema import knob

# What several of them say in the same words; a field of its own in each, with that algorithm's default.
SCHEDULE = "to zero over the budget, or constant"
MOVES = ("constant", "linear")
NET_ARCH = "widths of the hidden layers; empty: the library's own choice"
ACTIVATIONS = ("tanh", "relu", "elu", "leaky_relu")
BUFFER = "transitions that the replay keeps, of all environments together"
SAVE_REPLAY = "keep the replay in checkpoints; without it a resume begins with an empty one"
STARTS = "random transitions before the first gradient step"
N_STEPS = "rewards summed before a target's value; more than 1 not with Dict observations"
TRAIN_FREQ = "steps of all environments (or episodes, by train_freq_unit) between one learning and the next"
UNIT = "what train_freq counts; episode needs env.num_envs=1"
GRADIENT_STEPS = "gradient steps of one learning; -1: one for each transition gathered"
NOISE = "added to actions while gathering"
NOISE_STD = "its deviation, where actions span [-1, 1]"
SDE = "generalised state-dependent exploration in place of independent noise; Box actions only"
SDE_FREQ = "steps between new exploration matrices; -1: one for each rollout"
NOISES = ("none", "normal", "ornstein_uhlenbeck")


@dataclass
class SB3PPOConfig:
    """stable_baselines3.PPO."""

    name: str = knob("sb3/ppo", "the agent's name in the registry")
    n_steps: int = knob(2048, "steps of each environment in one rollout", gt=0)
    batch_size: int = knob(64, "transitions in one minibatch", gt=0)
    n_epochs: int = knob(10, "passes over a rollout", gt=0)
    learning_rate: float = knob(3e-4, "Adam's step size at the start", gt=0)
    learning_rate_schedule: str = knob("constant", SCHEDULE, choices=MOVES)
    gamma: float = knob(0.99, "discount of future reward", ge=0, le=1)
    gae_lambda: float = knob(0.95, "generalised advantage estimation's lambda", ge=0, le=1)
    clip_range: float = knob(0.2, "how far the probability ratio may leave 1", gt=0)
    clip_range_schedule: str = knob("constant", SCHEDULE, choices=MOVES)
    clip_range_vf: float | None = knob(None, "clip of the value's change; empty: none", gt=0, needs="vf_coef!=0")
    normalize_advantage: bool = knob(True, "advantages of a minibatch to mean 0, deviation 1")
    ent_coef: float = knob(0.0, "weight of the entropy bonus", ge=0)
    vf_coef: float = knob(0.5, "weight of the value loss", ge=0)
    max_grad_norm: float = knob(0.5, "gradients are scaled down to this norm", gt=0)
    target_kl: float | None = knob(None, "end an update's epochs once the approximate KL passes 1.5 times this", gt=0)
    use_sde: bool = knob(False, SDE)
    sde_sample_freq: int = knob(-1, SDE_FREQ, ge=-1, needs="use_sde=true")
    net_arch: list[int] | None = knob(None, NET_ARCH, gt=0)
    activation: str = knob("tanh", "between layers", choices=ACTIVATIONS)
    ortho_init: bool = knob(True, "orthogonal initial weights")
    log_std_init: float = knob(0.0, "initial log deviation of a Gaussian policy")

    def __post_init__(self) -> None:
        if self.batch_size == 1 and self.normalize_advantage:
            raise ValueError("batch_size=1: one advantage has no deviation; normalize_advantage=false would do")


@dataclass
class SB3A2CConfig:
    """stable_baselines3.A2C."""

    name: str = knob("sb3/a2c", "the agent's name in the registry")
    n_steps: int = knob(5, "steps of each environment in one rollout, which is one gradient step", gt=0)
    learning_rate: float = knob(7e-4, "the optimiser's step size at the start", gt=0)
    learning_rate_schedule: str = knob("constant", SCHEDULE, choices=MOVES)
    gamma: float = knob(0.99, "discount of future reward", ge=0, le=1)
    gae_lambda: float = knob(1.0, "generalised advantage estimation's lambda; 1: the n-step return", ge=0, le=1)
    normalize_advantage: bool = knob(False, "advantages of a rollout to mean 0, deviation 1")
    ent_coef: float = knob(0.0, "weight of the entropy bonus", ge=0)
    vf_coef: float = knob(0.5, "weight of the value loss", ge=0)
    max_grad_norm: float = knob(0.5, "gradients are scaled down to this norm", gt=0)
    use_rms_prop: bool = knob(True, "RMSprop, as the paper has; else Adam")
    rms_prop_eps: float = knob(1e-5, "RMSprop's epsilon", gt=0, needs="use_rms_prop=true")
    use_sde: bool = knob(False, SDE)
    sde_sample_freq: int = knob(-1, SDE_FREQ, ge=-1, needs="use_sde=true")
    net_arch: list[int] | None = knob(None, NET_ARCH, gt=0)
    activation: str = knob("tanh", "between layers", choices=ACTIVATIONS)
    ortho_init: bool = knob(True, "orthogonal initial weights")
    log_std_init: float = knob(0.0, "initial log deviation of a Gaussian policy")


@dataclass
class SB3DQNConfig:
    """stable_baselines3.DQN."""

    name: str = knob("sb3/dqn", "the agent's name in the registry")
    learning_rate: float = knob(1e-4, "Adam's step size at the start", gt=0)
    learning_rate_schedule: str = knob("constant", SCHEDULE, choices=MOVES)
    buffer_size: int = knob(1_000_000, BUFFER, gt=0)
    save_replay: bool = knob(True, SAVE_REPLAY)
    learning_starts: int = knob(100, STARTS, ge=0)
    batch_size: int = knob(32, "transitions in one gradient step", gt=0)
    tau: float = knob(1.0, "share of the network that a target update moves its target by", gt=0, le=1)
    gamma: float = knob(0.99, "discount of future reward", ge=0, le=1)
    n_steps: int = knob(1, N_STEPS, gt=0)
    train_freq: int = knob(4, TRAIN_FREQ, gt=0)
    train_freq_unit: str = knob("step", UNIT, choices=("step", "episode"))
    gradient_steps: int = knob(1, GRADIENT_STEPS, ge=-1)
    target_update_interval: int = knob(10_000, "transitions between target updates", gt=0)
    exploration_fraction: float = knob(0.1, "share of the budget over which epsilon falls", gt=0, le=1)
    exploration_initial_eps: float = knob(1.0, "epsilon at the start", ge=0, le=1)
    exploration_final_eps: float = knob(0.05, "epsilon in the end", ge=0, le=1)
    max_grad_norm: float = knob(10.0, "gradients are scaled down to this norm", gt=0)
    net_arch: list[int] | None = knob(None, NET_ARCH, gt=0)
    activation: str = knob("relu", "between layers", choices=ACTIVATIONS)

    def __post_init__(self) -> None:
        _check_learns(self.gradient_steps)


@dataclass
class SB3SACConfig:
    """stable_baselines3.SAC."""

    name: str = knob("sb3/sac", "the agent's name in the registry")
    learning_rate: float = knob(3e-4, "Adam's step size at the start, of actor, critics and entropy coefficient", gt=0)
    learning_rate_schedule: str = knob("constant", SCHEDULE, choices=MOVES)
    buffer_size: int = knob(1_000_000, BUFFER, gt=0)
    save_replay: bool = knob(True, SAVE_REPLAY)
    learning_starts: int = knob(100, STARTS, ge=0)
    batch_size: int = knob(256, "transitions in one gradient step", gt=0)
    tau: float = knob(0.005, "share of the critics that a target update moves their targets by", gt=0, le=1)
    gamma: float = knob(0.99, "discount of future reward", ge=0, le=1)
    n_steps: int = knob(1, N_STEPS, gt=0)
    train_freq: int = knob(1, TRAIN_FREQ, gt=0)
    train_freq_unit: str = knob("step", UNIT, choices=("step", "episode"))
    gradient_steps: int = knob(1, GRADIENT_STEPS, ge=-1)
    action_noise: str = knob("none", NOISE, choices=NOISES)
    action_noise_std: float = knob(0.1, NOISE_STD, ge=0, needs="action_noise!=none")
    ent_coef: str = knob("auto", "weight of the entropy: learned (auto, or auto_0.1 to begin at 0.1), or a number")
    target_entropy: str = knob(
        "auto", "entropy that a learned weight aims at; auto: minus the action's dimensions", needs="ent_coef=auto*"
    )
    target_update_interval: int = knob(1, "gradient steps between target updates", gt=0)
    use_sde: bool = knob(False, SDE)
    sde_sample_freq: int = knob(-1, SDE_FREQ, ge=-1, needs="use_sde=true")
    use_sde_at_warmup: bool = knob(
        False, "state-dependent exploration from the first step, in place of random actions", needs="use_sde=true"
    )
    n_critics: int = knob(2, "critics, the least of which counts", gt=0)
    net_arch: list[int] | None = knob(None, NET_ARCH, gt=0)
    activation: str = knob("relu", "between layers", choices=ACTIVATIONS)
    log_std_init: float = knob(-3.0, "initial log deviation, with use_sde", needs="use_sde=true")

    def __post_init__(self) -> None:
        _check_learns(self.gradient_steps)
        learned, begin = self.ent_coef.startswith("auto"), self.ent_coef.removeprefix("auto_")
        if self.ent_coef != "auto" and (not _is_number(begin) or float(begin) < 0 or (learned and float(begin) == 0)):
            raise ValueError(f"ent_coef={self.ent_coef}: must be auto, auto_X with X > 0, or a number >= 0")
        if self.target_entropy != "auto" and not _is_number(self.target_entropy):
            raise ValueError(f"target_entropy={self.target_entropy}: must be auto or a number")


@dataclass
class SB3TD3Config:
    """stable_baselines3.TD3."""

    name: str = knob("sb3/td3", "the agent's name in the registry")
    learning_rate: float = knob(1e-3, "Adam's step size at the start, of actor and critics", gt=0)
    learning_rate_schedule: str = knob("constant", SCHEDULE, choices=MOVES)
    buffer_size: int = knob(1_000_000, BUFFER, gt=0)
    save_replay: bool = knob(True, SAVE_REPLAY)
    learning_starts: int = knob(100, STARTS, ge=0)
    batch_size: int = knob(256, "transitions in one gradient step", gt=0)
    tau: float = knob(0.005, "share of the networks that a target update moves their targets by", gt=0, le=1)
    gamma: float = knob(0.99, "discount of future reward", ge=0, le=1)
    n_steps: int = knob(1, N_STEPS, gt=0)
    train_freq: int = knob(1, TRAIN_FREQ, gt=0)
    train_freq_unit: str = knob("step", UNIT, choices=("step", "episode"))
    gradient_steps: int = knob(1, GRADIENT_STEPS, ge=-1)
    action_noise: str = knob("none", NOISE, choices=NOISES)
    action_noise_std: float = knob(0.1, NOISE_STD, ge=0, needs="action_noise!=none")
    policy_delay: int = knob(2, "critics' gradient steps between one of the actor's, and target updates", gt=0)
    target_policy_noise: float = knob(0.2, "deviation of the noise on the target policy's actions", ge=0)
    target_noise_clip: float = knob(0.5, "bound of that noise", ge=0, needs="target_policy_noise!=0")
    n_critics: int = knob(2, "critics, the least of which counts", gt=0)
    net_arch: list[int] | None = knob(None, NET_ARCH, gt=0)
    activation: str = knob("relu", "between layers", choices=ACTIVATIONS)

    def __post_init__(self) -> None:
        _check_learns(self.gradient_steps)


def _check_learns(gradient_steps: int) -> None:
    if gradient_steps == 0:
        raise ValueError("gradient_steps=0 would learn nothing; give a number of steps, or -1 for one a transition")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
