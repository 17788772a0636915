"""The knobs of fine-tuning's methods and rewards. Free of torch: help reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlgym.config.schema import knob

TABLE = "/data.name!=default"
"""What knobs need that say how a table of a person's own is read."""
CHAT = (
    "prompts are a user's words, framed by the model's chat template; empty: where it has learnt chats (or a folder "
    "comes with a template) and the prompts are one's own"
)


@dataclass
class MethodConfig:
    """What every method of labelled or written examples can be asked for."""

    uses: ClassVar[tuple[str, ...]] = ("evaluate", "predict", "export")
    """The commands that a finished run is for."""

    epochs: float | None = knob(
        None,
        "passes over the training examples, where tokens= sets no budget; empty: 3, of few examples more (400 updates, "
        "but 30 passes at most)",
        gt=0,
        needs="/tokens=",
    )
    max_length: int | None = knob(None, "tokens of an example at most; empty: the model's block", gt=2)
    held_out: float = knob(0.2, "share of the examples that are held out, duplicates on one side", gt=0, lt=1)


@dataclass
class LabelledMethod(MethodConfig):
    """What every method with a target for each text can be asked for."""

    text: str = knob("", "column of the text; empty: found by its name or content")
    label_share: float = knob(
        1.0, "share of the training examples that is used, the held-out ones staying the same", gt=0, le=1
    )
    pooling: str = knob(
        "auto",
        "what the head reads: the mean of the hidden states, the first (cls) or the last; auto: an encoder's mean, a "
        "decoder's last",
        choices=("auto", "mean", "cls", "last"),
    )
    baselines: bool = knob(True, "fit the cheap baselines on the same split, and say whether the network is better")


@dataclass
class ClassificationMethod(LabelledMethod):
    """A label for each text."""

    name: str = knob("classification", "the method's name in the registry")
    label: str = knob("", "column of the label; empty: found by its name or content")
    class_weights: bool = knob(False, "weigh each class by the inverse of its share")
    focal_gamma: float = knob(0.0, "focal loss: how much sure and right examples count less (0: cross-entropy)", ge=0)
    label_smoothing: float = knob(0.0, "share of the probability given to all other labels", ge=0, lt=1)


@dataclass
class RegressionMethod(LabelledMethod):
    """A number for each text."""

    name: str = knob("regression", "the method's name in the registry")
    target: str = knob("", "column of the number; empty: found by its name or content")


@dataclass
class InstructionMethod(MethodConfig):
    """Answers to prompts, learnt from examples of them."""

    uses: ClassVar[tuple[str, ...]] = ("evaluate", "generate", "export")

    name: str = knob("instruction", "the method's name in the registry")
    held_out: float = knob(0.1, "share of the examples that are held out, duplicates on one side", gt=0, lt=1)
    prompt: str = knob("", "column of the prompt; empty: found by its name")
    completion: str = knob("", "column of the answer; empty: found by its name")
    input: str = knob(
        "", "column of what stands below the prompt, where a row has it; empty: `input`, unless method.prompt is named"
    )
    messages: str = knob("", "column of chat messages, [{role, content}, ...]; empty: found by its name")
    packing: bool = knob(False, "several examples of a batch in one row, attention kept inside each; same gradient")
    samples: int = knob(4, "held-out prompts that are answered at each evaluation (0: none)", ge=0)
    sample_tokens: int = knob(64, "new tokens of such an answer at most", gt=0, needs="samples!=0")


@dataclass
class PreferenceMethod(MethodConfig):
    """What every method of chosen and rejected answers can be asked for."""

    prompt: str = knob("prompt", "column of the prompt", needs=TABLE)
    chosen: str = knob("chosen", "column of the answer that was preferred", needs=TABLE)
    rejected: str = knob("rejected", "column of the other answer", needs=TABLE)


@dataclass
class RewardModelMethod(PreferenceMethod):
    """A number that is higher for better answers."""

    uses: ClassVar[tuple[str, ...]] = ("evaluate", "predict", "export")

    name: str = knob("reward_model", "the method's name in the registry")
    epochs: float = knob(3.0, "passes over the training pairs, where tokens= sets no budget", gt=0, needs="/tokens=")
    margin: str = knob("", "column of how much better the chosen answer is; empty: none", needs=TABLE)
    center_rewards_coefficient: float = knob(
        0.01, "what the square of a pair's summed rewards costs, so that 0 is their middle (arXiv:2312.09244)", ge=0
    )


@dataclass
class DPOMethod(PreferenceMethod):
    """Preferences without a reward model."""

    uses: ClassVar[tuple[str, ...]] = ("evaluate", "generate", "export")

    name: str = knob("dpo", "the method's name in the registry")
    epochs: float | None = knob(
        None,
        "passes over the training pairs, where tokens= sets no budget; empty: 2, half a one over the default pairs",
        gt=0,
        needs="/tokens=",
    )
    beta: float = knob(0.1, "strength of the KL penalty to the reference model", gt=0)
    loss_type: str = knob(
        "sigmoid",
        "DPO's (sigmoid), or a regression to a fixed gap (ipo, Azar et al. 2023, arXiv:2310.12036)",
        choices=("sigmoid", "ipo"),
    )
    label_smoothing: float = knob(
        0.0, "share of the preferences that are taken to be the wrong way round (conservative DPO)", ge=0, lt=0.5
    )
    rpo_alpha: float | None = knob(
        None,
        "weight of the chosen answers' own loss beside the preference's, so that both do not become unlikely "
        "(Pang et al. 2024, arXiv:2404.19733); empty: 0, and 1 on the default pairs",
        ge=0,
    )
    chat: bool | None = knob(None, CHAT)
    samples: int = knob(32, "held-out prompts that are answered at each evaluation (0: none)", ge=0)
    sample_tokens: int = knob(64, "new tokens of such an answer at most", gt=0, needs="samples!=0")


@dataclass
class DefaultReward:
    """The method's own."""

    name: str = knob("default", "the reward's name in the registry")


@dataclass
class PythonSyntaxReward:
    """1 for Python that parses and does something."""

    name: str = knob("python_syntax", "the reward's name in the registry")


@dataclass
class ArithmeticReward:
    """1 for the exact answer."""

    name: str = knob("arithmetic", "the reward's name in the registry")


@dataclass
class RegexReward:
    """1 where a pattern is found."""

    name: str = knob("regex", "the reward's name in the registry")
    pattern: str = knob("", "regular expression that a completion is to hold; . stands for line ends, too")
    whole: bool = knob(False, "the pattern is to be all of the completion, not a part of it")


@dataclass
class LengthReward:
    """A length in characters."""

    name: str = knob("length", "the reward's name in the registry")
    target: int = knob(80, "characters that are worth 1; none or twice as many are worth 0", gt=0)


@dataclass
class ModelReward:
    """What a reward model says."""

    name: str = knob("reward_model", "the reward's name in the registry")
    run: str = knob("", "a run of finetune method=reward_model (folder, short name, last)")


@dataclass
class SumReward:
    """A weighted sum of rewards."""

    name: str = knob("sum", "the reward's name in the registry")
    terms: list[dict[str, object]] = knob(
        [], "what is added up: [{name:python_syntax,weight:1},{name:length,target:80}]"
    )


@dataclass
class OwnReward:
    """A function of your own: function(prompts, completions) gives a number for each completion."""

    name: str = knob("", "module:function")


# ---- methods that learn from a reward


@dataclass
class RewardedMethod:
    """What every method that learns from a reward can be asked for."""

    prompts: int = knob(16, "prompts of an update", gt=0)
    group_size: int = knob(8, "completions of each prompt", gt=0)
    max_new_tokens: int = knob(64, "tokens of a completion at most, the end of text included", gt=0)
    temperature: float = knob(1.0, "of sampling, in training and evaluation; below 1: likelier tokens", gt=0)
    top_k: int | None = knob(None, "sample only among the k likeliest tokens", gt=0)
    top_p: float | None = knob(None, "sample only among the likeliest tokens of this probability together", gt=0, le=1)
    truncated: str = knob(
        "score",
        "completions without an end of text: scored like others, left out of the loss (mask), or scored less penalty",
        choices=("score", "mask", "penalise"),
    )
    truncation_penalty: float = knob(
        1.0, "what truncated=penalise takes off the reward", ge=0, needs="truncated=penalise"
    )
    prompt: str = knob(
        "",
        "column of the prompt, with data=jsonl, csv, ...; empty: found by its name or content",
        needs=TABLE,
    )
    chat: bool | None = knob(None, CHAT)
    held_out: float = knob(0.1, "share of the prompts that evaluations use, duplicates on one side", gt=0, lt=1)
    evaluate_prompts: int = knob(256, "held-out prompts of one evaluation at most, the same ones each time", gt=0)
    min_distinct: float = knob(
        0.7,
        "collapsed, and never the best: completions whose distinct_2 is below this share of the start's",
        ge=0,
        le=1,
    )


@dataclass
class SurrogateMethod(RewardedMethod):
    """What methods with a clipped surrogate can be asked for."""

    n_epochs: int = knob(1, "passes over the completions of an update", gt=0)
    clip_range: float = knob(
        0.2, "how far the probability ratio may fall, and rise where clip_range_high is empty", gt=0
    )
    clip_range_high: float | None = knob(None, "how far it may rise (DAPO: 0.28)", gt=0)


@dataclass
class PPOMethod(SurrogateMethod):
    """Per-token values, GAE, KL in the reward."""

    name: str = knob("ppo", "the method's name in the registry")
    group_size: int = knob(1, "completions of each prompt", gt=0)
    prompts: int = knob(128, "prompts of an update", gt=0)
    n_epochs: int = knob(2, "passes over the completions of an update", gt=0)
    kl_coef: float = knob(0.2, "what a nat of KL to the reference costs, token by token", ge=0)
    kl_target: float | None = knob(
        None,
        "KL of a completion in nats that kl_coef adapts to (Ziegler et al. 2019, arXiv:1909.08593); empty: fixed",
        gt=0,
    )
    kl_horizon: int = knob(10_000, "completions over which an adaptive kl_coef moves", gt=0, needs="kl_target!=")
    gamma: float = knob(1.0, "discount of later tokens", ge=0, le=1)
    gae_lambda: float = knob(0.95, "GAE: 0 trusts the values, 1 the reward", ge=0, le=1)
    vf_coef: float = knob(0.1, "weight of the value loss", ge=0)
    clip_range_vf: float | None = knob(
        0.2, "how far values may move in an update; empty: any way", gt=0, needs="vf_coef!=0"
    )
    normalize_advantage: bool = knob(True, "advantages of an update to mean 0 and deviation 1")


@dataclass
class GRPOMethod(SurrogateMethod):
    """Advantages against the group's mean."""

    name: str = knob("grpo", "the method's name in the registry")
    kl_coef: float = knob(0.12, "weight of the KL to the reference in the loss", ge=0)
    kl_estimator: str = knob(
        "k3",
        "as published (k3); with the exact gradient: k2, or k3 times the ratio (k1 would have none)",
        choices=("k2", "k3", "k3_ratio"),
        needs="kl_coef!=0",
    )
    normalization: str = knob(
        "dapo",
        "the loss is a mean over each completion and then over these (grpo), over all tokens (dapo), or a sum over "
        "tokens by rows x max_new_tokens (dr_grpo)",
        choices=("grpo", "dapo", "dr_grpo"),
    )
    scale_rewards: str = knob(
        "group",
        "advantages are divided by the deviation of their group, of the update, or not",
        choices=("group", "batch", "none"),
    )


@dataclass
class RLOOMethod(SurrogateMethod):
    """Whole completions against the mean of the others."""

    name: str = knob("rloo", "the method's name in the registry")
    kl_coef: float = knob(0.25, "what a nat of KL to the reference costs, in a completion's reward", ge=0)
    normalize_advantage: bool = knob(False, "advantages of an update to mean 0 and deviation 1")


@dataclass
class BestOfNMethod(RewardedMethod):
    """Cross-entropy on the best of each prompt's completions."""

    name: str = knob("best_of_n", "the method's name in the registry")
    group_size: int = knob(4, "completions of each prompt: the n", gt=1)
    prompts: int = knob(32, "prompts of an update", gt=0)
    n_epochs: int = knob(1, "passes over the kept completions of an update", gt=0)
    above: float | None = knob(0.0, "the best is kept only where its reward is above this; empty: always")
