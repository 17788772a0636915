"""Hyper-parameters of PPO, A2C and REINFORCE, named as in Stable-Baselines3 where they mean the same. Imports no torch,
since `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from rlgym.config.schema import knob


@dataclass
class OnPolicyConfig:
    """Hyper-parameters common to PPO, A2C and REINFORCE: their networks."""

    name: str = knob("", "the agent's name in the registry, or module:Class")
    net_arch: list[int] = knob([64, 64], "widths of the hidden layers of actor and of critic", gt=0)
    activation: str = knob("tanh", "activation function of the hidden layers", choices=("tanh", "relu"))
    std: str = knob(
        "free",
        "deviation of a Gaussian policy: a free parameter per dimension, or a function of the state",
        choices=("free", "state"),
    )
    log_std_init: float = knob(0.0, "initial log deviation of a Gaussian policy")
    squash: bool = knob(False, "squash a Gaussian's samples to the action bounds by tanh instead of clipping them")
    recurrent: str = knob("none", "recurrent layer in front of actor and critic", choices=("none", "lstm", "gru"))
    hidden_size: int = knob(64, "size of the recurrent layer's hidden state", gt=0, needs="recurrent!=none")


@dataclass
class PPOConfig(OnPolicyConfig):
    """Proximal Policy Optimization (Schulman et al. 2017, arXiv:1707.06347)."""

    name: str = knob("ppo", "the agent's name in the registry, or module:Class")
    n_steps: int = knob(128, "steps of each environment in one rollout", gt=0)
    batch_size: int = knob(256, "transitions in one minibatch", gt=0)
    n_epochs: int = knob(4, "passes over a rollout", gt=0)
    learning_rate: float = knob(2.5e-4, "Adam's step size at the start", gt=0)
    learning_rate_schedule: str = knob(
        "linear", "schedule: linear to zero over the budget, or constant", choices=("linear", "constant")
    )
    adam_eps: float = knob(1e-5, "Adam's epsilon", gt=0)
    gamma: float = knob(0.99, "discount factor", ge=0, le=1)
    gae_lambda: float = knob(0.95, "generalised advantage estimation's lambda", ge=0, le=1)
    clip_range: float = knob(0.2, "how far the probability ratio may leave 1", gt=0)
    clip_range_schedule: str = knob(
        "constant", "schedule: linear to zero over the budget, or constant", choices=("linear", "constant")
    )
    clip_range_vf: float | None = knob(None, "clip of the value's change; empty: none", gt=0, needs="vf_coef!=0")
    normalize_advantage: bool = knob(True, "advantages of a minibatch to mean 0, deviation 1")
    ent_coef: float = knob(0.0, "weight of the entropy bonus", ge=0)
    ent_coef_schedule: str = knob(
        "constant",
        "schedule: linear to zero over the budget, or constant",
        choices=("linear", "constant"),
        needs="ent_coef!=0",
    )
    vf_coef: float = knob(0.5, "weight of the value loss", ge=0)
    max_grad_norm: float = knob(0.5, "gradients are scaled down to this norm", gt=0)
    target_kl: float | None = knob(None, "end an update's epochs once the approximate KL passes 1.5 times this", gt=0)


@dataclass
class A2CConfig(OnPolicyConfig):
    """Advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783)."""

    name: str = knob("a2c", "the agent's name in the registry, or module:Class")
    n_steps: int = knob(5, "steps of each environment in one rollout, which is one gradient step", gt=0)
    learning_rate: float = knob(7e-4, "the optimiser's step size at the start", gt=0)
    learning_rate_schedule: str = knob(
        "constant", "schedule: linear to zero over the budget, or constant", choices=("linear", "constant")
    )
    use_rms_prop: bool = knob(True, "RMSprop, as the paper has; else Adam")
    rms_prop_eps: float = knob(1e-5, "RMSprop's epsilon", gt=0, needs="use_rms_prop=true")
    adam_eps: float = knob(1e-5, "Adam's epsilon", gt=0, needs="use_rms_prop=false")
    gamma: float = knob(0.99, "discount factor", ge=0, le=1)
    gae_lambda: float = knob(1.0, "generalised advantage estimation's lambda; 1: the n-step return", ge=0, le=1)
    normalize_advantage: bool = knob(False, "advantages of a rollout to mean 0, deviation 1")
    ent_coef: float = knob(0.0, "weight of the entropy bonus", ge=0)
    vf_coef: float = knob(0.5, "weight of the value loss", ge=0)
    max_grad_norm: float = knob(0.5, "gradients are scaled down to this norm", gt=0)


@dataclass
class ReinforceConfig(OnPolicyConfig):
    """REINFORCE with a learned baseline (Williams 1992, doi:10.1007/BF00992696)."""

    name: str = knob("reinforce", "the agent's name in the registry, or module:Class")
    n_steps: int = knob(
        256, "steps of each environment in one rollout, which is one gradient step; best some episodes long", gt=0
    )
    learning_rate: float = knob(3e-3, "Adam's step size at the start", gt=0)
    learning_rate_schedule: str = knob(
        "constant", "schedule: linear to zero over the budget, or constant", choices=("linear", "constant")
    )
    adam_eps: float = knob(1e-5, "Adam's epsilon", gt=0)
    gamma: float = knob(0.99, "discount factor", ge=0, le=1)
    normalize_advantage: bool = knob(True, "scale a rollout's returns minus baseline to mean 0, deviation 1")
    ent_coef: float = knob(0.0, "weight of the entropy bonus", ge=0)
    vf_coef: float = knob(0.5, "weight of the baseline's loss", ge=0)
    max_grad_norm: float = knob(0.5, "gradients are scaled down to this norm", gt=0)
