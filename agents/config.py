"""The knobs of every agent, named as in Stable-Baselines3 where the thing is the same. Free of torch: help reads it."""

from __future__ import annotations

from dataclasses import dataclass

from rlgym.config import knob


@dataclass
class PPOConfig:
    """Proximal Policy Optimization (Schulman et al. 2017, arXiv:1707.06347)."""

    name: str = knob("ppo", "the agent's name in the registry, or module:Class")
    n_steps: int = knob(128, "steps of each environment in one rollout", gt=0)
    batch_size: int = knob(256, "transitions in one minibatch", gt=0)
    n_epochs: int = knob(4, "passes over a rollout", gt=0)
    learning_rate: float = knob(2.5e-4, "Adam's step size at the start", gt=0)
    learning_rate_schedule: str = knob("linear", "to zero over the budget, or constant", choices=("linear", "constant"))
    adam_eps: float = knob(1e-5, "Adam's epsilon", gt=0)
    gamma: float = knob(0.99, "discount of future reward", ge=0, le=1)
    gae_lambda: float = knob(0.95, "generalised advantage estimation's lambda", ge=0, le=1)
    clip_range: float = knob(0.2, "how far the probability ratio may leave 1", gt=0)
    clip_range_schedule: str = knob("constant", "to zero over the budget, or constant", choices=("linear", "constant"))
    clip_range_vf: float | None = knob(None, "clip of the value's change; empty: none", gt=0)
    normalize_advantage: bool = knob(True, "advantages of a minibatch to mean 0, deviation 1")
    ent_coef: float = knob(0.0, "weight of the entropy bonus", ge=0)
    ent_coef_schedule: str = knob("constant", "to zero over the budget, or constant", choices=("linear", "constant"))
    vf_coef: float = knob(0.5, "weight of the value loss", ge=0)
    max_grad_norm: float = knob(0.5, "gradients are scaled down to this norm", gt=0)
    target_kl: float | None = knob(None, "end an update's epochs once the approximate KL passes 1.5 times this", gt=0)
    net_arch: list[int] = knob([64, 64], "widths of the hidden layers of actor and of critic", gt=0)
    activation: str = knob("tanh", "between layers", choices=("tanh", "relu"))
    std: str = knob(
        "free",
        "Gaussian deviation: one free parameter a dimension, or a function of the state",
        choices=("free", "state"),
    )
    log_std_init: float = knob(0.0, "initial log deviation of a Gaussian policy")
    squash: bool = knob(False, "a Gaussian's samples through tanh to the action bounds, instead of clipped to them")
