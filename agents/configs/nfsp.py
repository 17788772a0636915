"""Hyper-parameters of Neural Fictitious Self-Play, named as in Stable-Baselines3 where they mean the same. Imports no
torch, since `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from rlgym.config.schema import knob


@dataclass
class NFSPConfig:
    """Neural Fictitious Self-Play (Heinrich & Silver 2016, arXiv:1603.01121)."""

    name: str = knob("nfsp", "the agent's name in the registry, or module:Class")
    # ---- self-play
    games: int = knob(512, "games played in parallel", gt=0)
    n_steps: int = knob(4, "moves of each game between updates", gt=0)
    average: bool = knob(True, "play and learn the average of best responses; false: naive self-play, for comparison")
    anticipatory: float = knob(
        0.1, "share of games in which a player plays its best response", gt=0, le=1, needs="average=true"
    )
    train_freq: int = knob(128, "moves for each gradient step of either network", gt=0)
    net_arch: list[int] = knob([64, 64], "widths of the hidden layers of either network", gt=0)
    activation: str = knob("relu", "activation function of the hidden layers", choices=("tanh", "relu"))
    adam_eps: float = knob(1e-8, "Adam's epsilon", gt=0)
    max_grad_norm: float = knob(10.0, "gradients are scaled down to this norm", gt=0)
    # ---- the best response, by double Q-learning
    learning_rate: float = knob(2e-3, "Adam's step size for the best response", gt=0)
    buffer_size: int = knob(50_000, "capacity of the replay, in moves", gt=0)
    save_replay: bool = knob(True, "keep the replay in checkpoints; without it a resume starts with an empty one")
    learning_starts: int = knob(2_000, "moves before the first gradient step", ge=0)
    batch_size: int = knob(256, "moves in one gradient step", gt=0)
    gamma: float = knob(1.0, "discount factor", ge=0, le=1)
    target_update_interval: int = knob(4_000, "moves between updates of the target network", gt=0)
    exploration_initial_eps: float = knob(0.06, "the best response's epsilon at the start", ge=0, le=1)
    exploration_final_eps: float = knob(0.0, "the best response's final epsilon", ge=0, le=1)
    exploration_fraction: float = knob(1.0, "share of the budget over which epsilon falls linearly", ge=0, le=1)
    # ---- the average policy
    average_learning_rate: float = knob(2e-3, "Adam's step size for the average policy", gt=0, needs="average=true")
    average_batch_size: int = knob(256, "moves in one gradient step of the average policy", gt=0, needs="average=true")
    reservoir_size: int = knob(
        1_000_000,
        "capacity of the reservoir: a uniform sample of all best responses so far",
        gt=0,
        needs="average=true",
    )

    def __post_init__(self) -> None:
        if self.learning_starts > self.buffer_size:
            raise ValueError(
                f"learning_starts={self.learning_starts} moves never fit into buffer_size={self.buffer_size}"
            )
