"""The typed keys of every training command, with bounds. A group's choice (agent, objective, model, ...) adds its own
keys under the group's name. The dataclass is the single source of a key's default, type, bounds and help; YAML files in
`conf/` only choose and override.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

DEVICE = r"auto|cpu|mps|cuda(:\d{1,3})?"
DEVICES = "auto, cpu, cuda, cuda:N or mps"


def knob(
    default: Any,
    help: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] = (),
    needs: str | tuple[str, ...] = (),
    pattern: str = "",
) -> Any:
    """A dataclass field with its help line, the bounds that `parser` checks, and what it `needs` of other keys to have
    an effect (`effect`). `pattern`: of text, for which the help line stands in an error."""
    needs = (needs,) if isinstance(needs, str) else needs
    metadata = {"help": help, "gt": gt, "ge": ge, "lt": lt, "le": le, "choices": choices, "needs": needs}
    metadata["pattern"] = pattern
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RunConfig:
    dir: str = knob("", "folder of this run; empty: runs/<time>_<agent>_<env>_s<seed>")
    name: str = knob("", "replaces <agent>_<env>_s<seed> in the folder's name")


@dataclass
class LogConfig:
    every: int = knob(2_048, "steps between log points (0: none; at most once per update)", ge=0)
    histograms: bool = knob(True, "parameter and gradient histograms in TensorBoard, at each evaluation")


@dataclass
class EvaluateConfig:
    every: int = knob(10_000, "steps between evaluations (0: only at the end)", ge=0)
    episodes: int = knob(20, "episodes of one evaluation", gt=0)
    max_episode_steps: int | None = knob(
        None,
        "steps after which an episode is cut off, with a notice; empty: the environment's limit, else 30,000",
        gt=0,
    )
    video: bool = knob(False, "record an episode at each evaluation, into videos/ and TensorBoard")


@dataclass
class CheckpointConfig:
    every: int = knob(25_000, "steps between checkpoints (0: only at the end)", ge=0)
    keep: int = knob(3, "how many of the latest checkpoints are kept, in addition to the best", gt=0)


@dataclass
class StopConfig:
    at: float | None = knob(
        None, "stop once an evaluation reaches this value of the monitored metric", needs="/evaluate.every!=0"
    )
    patience: int = knob(
        0, "evaluations without a new best after which training stops (0: never)", ge=0, needs="/evaluate.every!=0"
    )


@dataclass
class AtariConfig:
    preprocess: bool = knob(
        True, "preprocess Atari games as published, by the keys below; false: as the id defines them"
    )
    frame_skip: int = knob(4, "frames per action; the observation is the maximum of the last two", gt=0)
    noop_max: int = knob(30, "maximum number of no-op frames at the start of an episode", ge=0)
    screen_size: int = knob(84, "pixels of the screen's width and height", gt=0)
    terminal_on_life_loss: bool = knob(
        False, "treat a lost life as the end of an episode in learning; the game continues"
    )
    clip_reward: bool = knob(True, "learn from the sign of rewards; returns are reported in full")


@dataclass
class PoolConfig:
    every: int = knob(20_000, "steps between two snapshots of the learner", gt=0)
    size: int = knob(20, "past selves kept; when full, the one the learner beats most often is evicted", gt=0)
    draw: str = knob(
        "prioritized",
        "choice of a past self for a new game: the latest, uniform, or prioritized by difficulty",
        choices=("latest", "uniform", "prioritized"),
    )
    power: float = knob(2.0, "prioritized: drawn by (1 - the learner's win rate)^power", ge=0, needs="draw=prioritized")
    random: float = knob(0.1, "share of games against random play", ge=0, le=1)
    one_ply: float = knob(
        0.1, "share of games against one_ply, which wins in one move if it can; with hidden cards: random", ge=0, le=1
    )

    def __post_init__(self) -> None:
        if self.random + self.one_ply > 1:
            raise ValueError(f"random={self.random} and one_ply={self.one_ply} are shares and add up to more than 1")


@dataclass
class SelfPlayConfig:
    opponent: str = knob(
        "pool", "in games: random, one_ply, mcts_K (K playouts per move), a RUN, or past selves (pool)"
    )
    seat: str = knob("random", "the learner's seat: first, second or random", choices=("first", "second", "random"))
    pool: PoolConfig = field(default_factory=PoolConfig, metadata={"needs": ("opponent=pool",)})


@dataclass
class EnvConfig:
    id: str = knob("", "any Gymnasium id, or module:Id; set by env=ID")
    num_envs: int = knob(8, "environments stepped in parallel", gt=0)
    backend: str = knob(
        "auto",
        "backend: native batched code, one process (sync), worker processes (async), or EnvPool",
        choices=("auto", "native", "sync", "async", "envpool"),
    )
    kwargs: dict[str, Any] = knob({}, "arguments of the environment's constructor: +env.kwargs.x=y")
    frame_stack: int = knob(0, "number of latest observations stacked; 0: 4 for Atari, 1 elsewhere", ge=0)
    normalize_observation: bool = knob(False, "scale observations by running mean and variance")
    normalize_reward: bool = knob(False, "scale rewards by the running deviation of the discounted return")
    check: bool = knob(True, "report once where an observation leaves the bounds of its space")
    atari: AtariConfig = field(default_factory=AtariConfig)
    self_play: SelfPlayConfig = field(default_factory=SelfPlayConfig)


@dataclass
class TextLogConfig(LogConfig):
    every: int = knob(20_000, "tokens between log points (0: none; at most once per update)", ge=0)


@dataclass
class TextEvaluateConfig:
    every: int = knob(300_000, "tokens between evaluations (0: only at the end)", ge=0)
    tokens: int = knob(100_000, "held-out tokens of one evaluation, always the same", gt=0)


@dataclass
class TextCheckpointConfig(CheckpointConfig):
    every: int = knob(500_000, "tokens between checkpoints (0: only at the end)", ge=0)


@dataclass
class SampleConfig:
    count: int = knob(4, "samples at each evaluation (0: none)", ge=0)
    tokens: int = knob(128, "new tokens per sample", gt=0, needs=("/objective.name!=masked", "count!=0"))
    prompt: str = knob(
        "", "prompt of the samples; empty: the beginning of a document", needs=("/objective.name!=masked", "count!=0")
    )
    temperature: float = knob(
        0.8,
        "sampling temperature; 0: always the most likely token",
        ge=0,
        needs=("/objective.name!=masked", "count!=0"),
    )


@dataclass
class RootConfig:
    """Keys of every training command."""

    root: ClassVar[str]
    """The command word, and the root config in conf/."""
    budget_key: ClassVar[str]
    """The key of the budget; cadences and schedules count in the same unit."""
    learner_group: ClassVar[str]
    """The group whose choice names the learner."""
    learner: ClassVar[str] = ""
    """`module:Class` of the learner; empty: named by the learner group's choice."""
    refuse: ClassVar[str] = ""
    """`module:function` that raises RequestError where a composed config cannot be fulfilled; empty: none."""
    recipe_groups: ClassVar[tuple[str, ...]]
    """Groups that an experiment's values were tuned for: another choice is refused."""
    sections: ClassVar[dict[str, str]]
    """Groups with their own config -> the key in it that names the registry entry."""

    updates: int | None = knob(None, "budget in updates", gt=0)
    minutes: float | None = knob(None, "budget in minutes of wall-clock time", gt=0)
    seed: int = knob(1, "seed of everything random", ge=0)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    compile: str = knob(
        "auto", "torch.compile of the update; auto: where it pays off within the budget", choices=("auto", "on", "off")
    )
    threads: int | None = knob(None, "CPU threads of torch; empty: by the size of the work", gt=0, le=1_024)
    display: str = knob("auto", "progress on the terminal", choices=("auto", "rich", "plain", "quiet"))
    run: RunConfig = field(default_factory=RunConfig)
    log: LogConfig = field(default_factory=LogConfig)
    evaluate: Any = None
    checkpoint: Any = None
    stop: StopConfig = field(default_factory=StopConfig)

    given = frozenset[str]()
    """Dotted keys given on the command line; none for a loaded config."""

    @property
    def budget(self) -> int:
        """The budget in environment steps, moves or tokens."""
        return int(getattr(self, self.budget_key))

    @budget.setter
    def budget(self, value: int) -> None:
        setattr(self, self.budget_key, value)

    @property
    def learner_name(self) -> str:
        """The choice of the learner group, as in agent=ppo."""
        return str(getattr(getattr(self, self.learner_group), self.sections[self.learner_group]))

    @property
    def subject(self) -> dict[str, str]:
        """Learner and data, `agent` and `env`, which name the run's folder and its row in tables."""
        raise NotImplementedError

    @property
    def products(self) -> dict[str, str]:
        """Commands for a finished RUN: label in the closing lines -> command."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        return "_".join(self.subject.values())

    @property
    def schedule_budget(self) -> int:
        """The budget that schedules refer to: the first one, unless overridden."""
        return int(getattr(self, f"schedule_{self.budget_key}") or self.budget)


@dataclass
class TrainConfig(RootConfig):
    """`python -m rlgym [train]`: learning from reward."""

    root = "train"
    refuse = "rlgym.envs.make:refuse"
    budget_key = "steps"
    learner_group = "agent"
    recipe_groups = ("agent", "env")
    sections = {"agent": "name"}

    steps: int = knob(100_000, "budget in environment steps (in self-play: moves)", gt=0)
    schedule_steps: int | None = knob(None, "steps over which schedules run; empty: the first budget in steps", gt=0)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    agent: Any = knob(None, "the agent's hyper-parameters, a dataclass named by the registry")

    @property
    def subject(self) -> dict[str, str]:
        return {"agent": self.agent.name, "env": self.env.id}

    @property
    def products(self) -> dict[str, str]:
        return {"evaluate": "evaluate RUN", "watch": "play RUN", "export": "export RUN"}


@dataclass
class TextConfig(RootConfig):
    """Keys common to pretraining and fine-tuning."""

    schedule_tokens: int | None = knob(None, "tokens over which schedules run; empty: the first budget", gt=0)
    gradient_accumulation_steps: int = knob(1, "parts that a batch is split into to save memory; same gradient", gt=0)
    precision: str = knob(
        "auto", "precision of matrix products; auto: bf16 where it is faster", choices=("auto", "fp32", "bf16")
    )
    log: TextLogConfig = field(default_factory=TextLogConfig)


@dataclass
class PretrainConfig(TextConfig):
    """`python -m rlgym pretrain`: learning from text."""

    root = "pretrain"
    budget_key = "tokens"
    learner_group = "objective"
    learner = "rlgym.ssl.pretraining:Pretraining"
    recipe_groups = ("objective", "model")
    sections = {
        "objective": "name",
        "model": "architecture",
        "data": "name",
        "tokenizer": "name",
        "optimizer": "name",
    }

    tokens: int = knob(1_500_000, "budget in tokens", gt=0)
    batch_size: int | None = knob(None, "blocks per optimiser step; empty: from the model and the budget", gt=0)
    compile: str = knob(
        "auto",
        "of the update: torch.compile (on), on a CPU layers compiled (kernels), neither (off); auto: what the "
        "budget repays",
        choices=("auto", "on", "off", "kernels"),
    )
    ema_decay: float | None = knob(
        None, "evaluate and keep an exponential moving average of the weights with this decay; empty: none", gt=0, lt=1
    )
    evaluate: TextEvaluateConfig = field(default_factory=TextEvaluateConfig)
    checkpoint: TextCheckpointConfig = field(default_factory=TextCheckpointConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    objective: Any = knob(None, "the objective's settings")
    model: Any = knob(None, "the model's settings")
    data: Any = knob(None, "the corpus's settings")
    tokenizer: Any = knob(None, "the tokenizer's settings")
    optimizer: Any = knob(None, "the optimiser's own knobs")
    causal: bool | None = knob(None, "whether attention is causal; set by the objective")

    @property
    def is_causal(self) -> bool:
        """`causal`; runs from before it was written go by the objective's name."""
        return self.objective.name != "masked" if self.causal is None else self.causal

    @property
    def subject(self) -> dict[str, str]:
        return {"agent": f"{self.objective.name}_{self.model.name}", "env": self.data.name}

    @property
    def products(self) -> dict[str, str]:
        fill = {"fill": "fill RUN text='the [MASK] of the list'"}
        use = {"generate": "generate RUN"} if self.is_causal else fill
        return {"evaluate": "evaluate RUN", **use, "export": "export RUN"}


@dataclass
class EachEpochConfig:
    every: int | None = knob(None, "tokens between evaluations (0: only at the end); empty: after each epoch", ge=0)


@dataclass
class EachEpochCheckpointConfig:
    every: int | None = knob(None, "tokens between checkpoints (0: only at the end); empty: after each epoch", ge=0)
    keep: int = knob(3, "how many of the latest checkpoints are kept, in addition to the best", gt=0)


@dataclass
class AdaptConfig:
    mode: str = knob(
        "full",
        "what is trained: all weights, the last layers and the head, only the head, or LoRA",
        choices=("full", "last", "head", "lora"),
    )
    init: str = knob(
        "pretrained",
        "initial weights; random: a new model of the same shape and tokenizer, as a baseline",
        choices=("pretrained", "random"),
    )
    layers: int = knob(1, "mode=last: number of last layers", gt=0, needs="mode=last")
    rank: int = knob(8, "mode=lora: rank of the updates (Hu et al. 2021, arXiv:2106.09685)", gt=0, needs="mode=lora")
    alpha: int = knob(16, "mode=lora: updates are scaled by alpha / rank", gt=0, needs="mode=lora")


@dataclass
class FinetuneConfig(TextConfig):
    """`python -m rlgym finetune`: fine-tuning a pretrained model by labels, demonstrations, preferences or reward."""

    root = "finetune"
    budget_key = "tokens"
    learner_group = "method"
    recipe_groups = ("method",)
    sections = {"method": "name", "data": "name", "reward": "name", "optimizer": "name"}

    init_from: str = knob("", "a run of pretrain or finetune (folder, short name, last), or a Hugging Face folder")
    tokens: int | None = knob(None, "budget in tokens (rewarded methods: sampled tokens); empty: the method's", gt=0)
    batch_size: int = knob(32, "examples per optimiser step", gt=0)
    evaluate: EachEpochConfig = field(default_factory=EachEpochConfig)
    checkpoint: EachEpochCheckpointConfig = field(default_factory=EachEpochCheckpointConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    method: Any = knob(None, "the method's settings")
    data: Any = knob(None, "the settings of the data")
    reward: Any = knob(None, "the reward's settings")
    optimizer: Any = knob(None, "the optimiser's own knobs")
    model: dict[str, Any] = knob(
        {}, "the model's shape, copied from init_from", needs="the model's shape is taken over from init_from"
    )
    causal: bool | None = knob(
        None,
        "whether attention is causal; copied from init_from",
        needs="it is taken over from init_from",
    )

    @property
    def subject(self) -> dict[str, str]:
        learned_from = self.data if self.reward.name == "default" else self.reward
        return {"agent": self.method.name, "env": learned_from.name}

    @property
    def products(self) -> dict[str, str]:
        found = {word: f"{word} RUN" for word in getattr(self.method, "uses", ("evaluate", "generate", "export"))}
        if "predict" in found:  # only methods with labels name the column of the text
            text = hasattr(self.method, "text")
            found["predict"] += " text='a text of your own'" if text else " data=a_table_of_your_own.csv"
        return found


ROOTS: dict[str, type[RootConfig]] = {cls.root: cls for cls in (TrainConfig, PretrainConfig, FinetuneConfig)}
