"""Hyper-parameters of fine-tuning methods and rewards. Imports no torch, since `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlgym.config.schema import knob

TABLE = "/data.name!=default"
"""Why settings for reading a user's table have no effect without one."""
CHAT = (
    "prompts are a user's words, framed by the model's chat template; empty: where it has learnt chats (or a folder "
    "comes with a template) and the prompts are one's own"
)


@dataclass
class MethodConfig:
    """Settings of every supervised method."""

    uses: ClassVar[tuple[str, ...]] = ("evaluate", "predict", "export")
    """Commands for a finished run."""

    epochs: float | None = knob(
        None,
        "passes over the training examples, where tokens= sets no budget; empty: 3, of few examples more (400 updates, "
        "but 30 passes at most)",
        gt=0,
        needs="/tokens=",
    )
    max_length: int | None = knob(None, "maximum tokens of an example; empty: the model's block", gt=2)
    held_out: float = knob(0.2, "share of the examples that are held out, duplicates on one side", gt=0, lt=1)


@dataclass
class LabelledMethod(MethodConfig):
    """Settings of every method with a target for each text."""

    text: str = knob("", "column of the text; empty: detected by name or content")
    label_share: float = knob(1.0, "share of training examples to use; held-out ones stay the same", gt=0, le=1)
    pooling: str = knob(
        "auto",
        "what the head reads: the mean of the hidden states, the first (cls) or the last; auto: an encoder's mean, a "
        "decoder's last",
        choices=("auto", "mean", "cls", "last"),
    )
    baselines: bool = knob(True, "fit simple baselines on the same split, and report whether the network is better")


@dataclass
class ClassificationMethod(LabelledMethod):
    """A label for each text."""

    name: str = knob("classification", "the method's name in the registry")
    label: str = knob("", "column of the label; empty: detected by name or content")
    class_weights: bool = knob(False, "weight classes by the inverse of their share")
    focal_gamma: float = knob(
        0.0, "gamma of the focal loss, which down-weights confident correct examples (0: cross-entropy)", ge=0
    )
    label_smoothing: float = knob(0.0, "label smoothing", ge=0, lt=1)


@dataclass
class RegressionMethod(LabelledMethod):
    """A number for each text."""

    name: str = knob("regression", "the method's name in the registry")
    target: str = knob("", "column of the number; empty: detected by name or content")


@dataclass
class InstructionMethod(MethodConfig):
    """Answers to prompts, learnt from examples of them."""

    uses: ClassVar[tuple[str, ...]] = ("evaluate", "generate", "export")

    name: str = knob("instruction", "the method's name in the registry")
    held_out: float = knob(0.1, "share of the examples that are held out, duplicates on one side", gt=0, lt=1)
    prompt: str = knob("", "column of the prompt; empty: found by its name")
    completion: str = knob("", "column of the answer; empty: found by its name")
    input: str = knob(
        "", "column appended to the prompt, where a row has it; empty: `input`, unless method.prompt is given"
    )
    messages: str = knob("", "column of chat messages, [{role, content}, ...]; empty: detected by name")
    packing: bool = knob(False, "pack several examples into a row, with attention inside each; same gradient")
    samples: int = knob(4, "held-out prompts that are answered at each evaluation (0: none)", ge=0)
    sample_tokens: int = knob(64, "maximum new tokens of these answers", gt=0, needs="samples!=0")


@dataclass
class PreferenceMethod(MethodConfig):
    """Settings of every preference method."""

    prompt: str = knob("prompt", "column of the prompt", needs=TABLE)
    chosen: str = knob("chosen", "column of the chosen answer", needs=TABLE)
    rejected: str = knob("rejected", "column of the rejected answer", needs=TABLE)


@dataclass
class RewardModelMethod(PreferenceMethod):
    """A number that is higher for better answers."""

    uses: ClassVar[tuple[str, ...]] = ("evaluate", "predict", "export")

    name: str = knob("reward_model", "the method's name in the registry")
    epochs: float = knob(3.0, "passes over the training pairs, where tokens= sets no budget", gt=0, needs="/tokens=")
    margin: str = knob("", "column of the margin by which the chosen answer is better; empty: none", needs=TABLE)
    center_rewards_coefficient: float = knob(
        0.01, "weight of the squared sum of a pair's rewards, which centres rewards at 0 (arXiv:2312.09244)", ge=0
    )


@dataclass
class DPOMethod(PreferenceMethod):
    """Preferences without a reward model."""

    uses: ClassVar[tuple[str, ...]] = ("evaluate", "generate", "export")

    name: str = knob("dpo", "the method's name in the registry")
    epochs: float | None = knob(
        None,
        "epochs, if tokens= sets no budget; empty: 2, or 0.5 on the default pairs",
        gt=0,
        needs="/tokens=",
    )
    beta: float = knob(0.1, "strength of the KL penalty to the reference model", gt=0)
    loss_type: str = knob(
        "sigmoid",
        "DPO's loss (sigmoid), or regression to a fixed gap (ipo, Azar et al. 2023, arXiv:2310.12036)",
        choices=("sigmoid", "ipo"),
    )
    label_smoothing: float = knob(0.0, "assumed share of flipped preferences (conservative DPO)", ge=0, lt=0.5)
    rpo_alpha: float | None = knob(
        None,
        "weight of the chosen answers' cross-entropy next to the preference loss, so that both do not become unlikely "
        "(Pang et al. 2024, arXiv:2404.19733); empty: 0, and 1 on the default pairs",
        ge=0,
    )
    chat: bool | None = knob(None, CHAT)
    samples: int = knob(32, "held-out prompts that are answered at each evaluation (0: none)", ge=0)
    sample_tokens: int = knob(64, "maximum new tokens of these answers", gt=0, needs="samples!=0")


@dataclass
class DefaultReward:
    """The method's built-in reward."""

    name: str = knob("default", "the reward's name in the registry")


@dataclass
class PythonSyntaxReward:
    """1 for valid Python that does something."""

    name: str = knob("python_syntax", "the reward's name in the registry")


@dataclass
class ArithmeticReward:
    """1 for the exact answer."""

    name: str = knob("arithmetic", "the reward's name in the registry")


@dataclass
class RegexReward:
    """1 where a pattern is found."""

    name: str = knob("regex", "the reward's name in the registry")
    pattern: str = knob("", "regular expression to find in a completion; . matches newlines, too")
    whole: bool = knob(False, "the pattern must match the whole completion")


@dataclass
class LengthReward:
    """A length in characters."""

    name: str = knob("length", "the reward's name in the registry")
    target: int = knob(80, "length in characters with reward 1; empty or twice as long gives 0", gt=0)


@dataclass
class ModelReward:
    """The reward of a reward model."""

    name: str = knob("reward_model", "the reward's name in the registry")
    run: str = knob("", "a run of finetune method=reward_model (folder, short name, last)")


@dataclass
class SumReward:
    """A weighted sum of rewards."""

    name: str = knob("sum", "the reward's name in the registry")
    terms: list[dict[str, object]] = knob([], "summands: [{name:python_syntax,weight:1},{name:length,target:80}]")


@dataclass
class OwnReward:
    """Your own function(prompts, completions), which returns a number for each completion."""

    name: str = knob("", "module:function")


# ---- methods that learn from a reward


@dataclass
class RewardedMethod:
    """Settings of every rewarded method."""

    prompts: int = knob(16, "prompts of an update", gt=0)
    group_size: int = knob(8, "completions of each prompt", gt=0)
    max_new_tokens: int = knob(64, "maximum tokens of a completion, including the end of text", gt=0)
    temperature: float = knob(1.0, "sampling temperature in training and evaluation", gt=0)
    top_k: int | None = knob(None, "sample from the k most likely tokens", gt=0)
    top_p: float | None = knob(None, "sample from the smallest set of tokens with this total probability", gt=0, le=1)
    truncated: str = knob(
        "score",
        "truncated completions: score normally, mask in the loss, or subtract a penalty",
        choices=("score", "mask", "penalise"),
    )
    truncation_penalty: float = knob(1.0, "penalty of truncated=penalise", ge=0, needs="truncated=penalise")
    prompt: str = knob(
        "",
        "column of the prompt, with data=jsonl, csv, ...; empty: detected by name or content",
        needs=TABLE,
    )
    chat: bool | None = knob(None, CHAT)
    held_out: float = knob(0.1, "share of prompts held out for evaluations, duplicates on one side", gt=0, lt=1)
    evaluate_prompts: int = knob(256, "maximum number of held-out prompts per evaluation, always the same", gt=0)
    min_distinct: float = knob(
        0.7,
        "completions count as collapsed, and are never the best, if distinct_2 is below this share of its start value",
        ge=0,
        le=1,
    )


@dataclass
class SurrogateMethod(RewardedMethod):
    """Settings of methods with a clipped surrogate."""

    n_epochs: int = knob(1, "passes over the completions of an update", gt=0)
    clip_range: float = knob(
        0.2, "lower clip range of the probability ratio; also the upper one if clip_range_high is empty", gt=0
    )
    clip_range_high: float | None = knob(None, "upper clip range (DAPO: 0.28)", gt=0)


@dataclass
class PPOMethod(SurrogateMethod):
    """Per-token values, GAE, KL in the reward."""

    name: str = knob("ppo", "the method's name in the registry")
    group_size: int = knob(1, "completions of each prompt", gt=0)
    prompts: int = knob(128, "prompts of an update", gt=0)
    n_epochs: int = knob(2, "passes over the completions of an update", gt=0)
    kl_coef: float = knob(0.2, "penalty per nat of KL to the reference, per token", ge=0)
    kl_target: float | None = knob(
        None,
        "target KL of a completion in nats, to adapt kl_coef (Ziegler et al. 2019, arXiv:1909.08593); empty: fixed",
        gt=0,
    )
    kl_horizon: int = knob(10_000, "horizon of the adaptive kl_coef, in completions", gt=0, needs="kl_target!=")
    gamma: float = knob(1.0, "discount factor", ge=0, le=1)
    gae_lambda: float = knob(0.95, "lambda of GAE: 0 uses only values, 1 only rewards", ge=0, le=1)
    vf_coef: float = knob(0.1, "weight of the value loss", ge=0)
    clip_range_vf: float | None = knob(0.2, "clip range of value changes; empty: no clipping", gt=0, needs="vf_coef!=0")
    normalize_advantage: bool = knob(True, "advantages of an update to mean 0 and deviation 1")


@dataclass
class GRPOMethod(SurrogateMethod):
    """Advantages against the group's mean."""

    name: str = knob("grpo", "the method's name in the registry")
    kl_coef: float = knob(0.12, "weight of the KL to the reference in the loss", ge=0)
    kl_estimator: str = knob(
        "k3",
        "KL estimator: k3 as published; k2 or k3_ratio for the exact gradient",
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
        "divide advantages by the deviation of the group, of the batch, or not at all",
        choices=("group", "batch", "none"),
    )


@dataclass
class RLOOMethod(SurrogateMethod):
    """Whole completions against the mean of the others."""

    name: str = knob("rloo", "the method's name in the registry")
    kl_coef: float = knob(0.25, "penalty per nat of KL to the reference, in a completion's reward", ge=0)
    normalize_advantage: bool = knob(False, "advantages of an update to mean 0 and deviation 1")


@dataclass
class BestOfNMethod(RewardedMethod):
    """Cross-entropy on the best of each prompt's completions."""

    name: str = knob("best_of_n", "the method's name in the registry")
    group_size: int = knob(4, "completions of each prompt (n)", gt=1)
    prompts: int = knob(32, "prompts of an update", gt=0)
    n_epochs: int = knob(1, "passes over the kept completions of an update", gt=0)
    above: float | None = knob(0.0, "keep the best completion only if its reward exceeds this; empty: always")
