"""Hyper-parameters of AlphaZero. Imports no torch, since `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from rlgym.config.schema import knob


@dataclass
class AlphaZeroConfig:
    """AlphaZero (Silver et al. 2018, doi:10.1126/science.aar6404), searching as Gumbel AlphaZero does (Danihelka et al.
    2022, openreview.net/forum?id=bERaNdoegnO)."""

    name: str = knob("alphazero", "the agent's name in the registry, or module:Class")
    # ---- self-play
    games: int = knob(256, "games played in parallel, each with a search before every move", gt=0)
    n_steps: int = knob(4, "moves of each game between updates", gt=0)
    search: str = knob(
        "gumbel",
        "sequential halving and completed values (gumbel), or upper confidence bounds (puct)",
        choices=("gumbel", "puct"),
    )
    simulations: int = knob(64, "positions evaluated by a full search before a move", gt=0)
    fast_simulations: int = knob(16, "positions evaluated by a fast search", gt=0, needs="full_share!=1")
    full_share: float = knob(
        0.5, "share of moves with a full search; fast ones train only the value (Wu 2019)", gt=0, le=1
    )
    considered: int = knob(16, "gumbel: moves considered at the root", gt=0, needs="search=gumbel")
    c_visit: float = knob(
        50.0,
        "gumbel: weight of values against the prior, added to the largest visit count",
        ge=0,
        needs="search=gumbel",
    )
    c_scale: float = knob(0.5, "gumbel: scale of that weight, for values in [0, 1]", gt=0, needs="search=gumbel")
    rescale: bool = knob(
        False, "gumbel: rescale values to [0, 1] by each node's range instead of the game's", needs="search=gumbel"
    )
    c_puct: float = knob(1.25, "puct: exploration constant", gt=0, needs="search=puct")
    dirichlet_alpha: float = knob(
        1.0,
        "puct: concentration of the root's Dirichlet noise",
        gt=0,
        needs=("search=puct", "dirichlet_fraction!=0"),
    )
    dirichlet_fraction: float = knob(0.25, "puct: share of noise in the root's prior", ge=0, le=1, needs="search=puct")
    temperature: float = knob(
        1.0,
        "temperature of the moves drawn in the opening, by policy^(1 / temperature); 0: none drawn",
        ge=0,
        needs="temperature_plies!=0",
    )
    temperature_plies: int = knob(
        8, "opening moves of a game that are drawn; later ones are the search's choice", ge=0, needs="temperature!=0"
    )
    # ---- the network
    network: str = knob(
        "mlp", "residual layers over all planes (mlp), or over neighbouring cells (conv)", choices=("mlp", "conv")
    )
    width: int = knob(256, "units of a layer, or channels", gt=0)
    blocks: int = knob(2, "residual blocks, two layers each", ge=0, le=1_000)
    precision: str = knob(
        "auto", "precision of the network in searches; auto: bf16 on a GPU", choices=("auto", "fp32", "bf16")
    )
    # ---- learning
    buffer_size: int = knob(400_000, "capacity of the replay, in positions", gt=0)
    save_replay: bool = knob(True, "keep the replay in checkpoints; without it a resume starts with an empty one")
    learning_starts: int = knob(10_000, "positions in the replay before the first gradient step", gt=0)
    reuse: float = knob(4.0, "how often a position is drawn for gradient steps, on average", gt=0)
    batch_size: int = knob(512, "positions in one gradient step", gt=0)
    learning_rate: float = knob(2e-3, "Adam's step size at the start", gt=0)
    learning_rate_schedule: str = knob(
        "cosine", "schedule: linear to zero over the budget, or constant", choices=("cosine", "linear", "constant")
    )
    adam_eps: float = knob(1e-8, "Adam's epsilon", gt=0)
    weight_decay: float = knob(1e-2, "decoupled weight decay", ge=0)
    max_grad_norm: float = knob(1.0, "gradients are scaled down to this norm", gt=0)
    vf_coef: float = knob(1.0, "weight of the value loss", ge=0)
    root_value: float = knob(
        0.0, "share of the search's root value in the value target; the rest is the outcome", ge=0, le=1
    )
    symmetries: bool = knob(True, "augment positions by the game's rotations and reflections")
    held_out: float = knob(
        0.02, "share of games held out of training, for eval/policy_loss and eval/value_loss", ge=0, lt=1
    )
    # ---- evaluating
    evaluate_simulations: int = knob(64, "positions evaluated by a search before a move, in evaluations", gt=0)
    opponents: str = knob("random,one_ply", "opponents of evaluations: random, one_ply, mcts_K, a RUN")
    exact: bool = knob(False, "connect_four: also measure the error rate in solved positions")
    past_selves: int = knob(4, "past selves kept as rated opponents", ge=0)

    def __post_init__(self) -> None:
        if self.full_share < 1 and self.fast_simulations > self.simulations:
            raise ValueError(
                f"fast_simulations={self.fast_simulations} is more than simulations={self.simulations}; a fast search "
                "is the shorter one"
            )
        if self.learning_starts > self.buffer_size:
            raise ValueError(
                f"learning_starts={self.learning_starts} positions never fit into buffer_size={self.buffer_size}"
            )
