"""What can be chosen by name: built in, installed as an entry point, or `module:Class`.

The registry knows only names; what they name is imported when it is used.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from rlgym.common.suggest import did_you_mean
from rlgym.errors import RequestError


@dataclass(frozen=True)
class Entry:
    name: str
    config: str
    """`module:Class` of the dataclass of its knobs, which has a field for its name."""
    target: str
    """`module:Class` of what it is."""
    summary: str


def _text(kind: str, names: dict[str, tuple[str, str, str]]) -> tuple[Entry, ...]:
    """Entries of learning from text, whose knobs are all in one file; `kind` ends the names of their classes."""
    return tuple(
        Entry(name, f"rlgym.ssl.config:{cls}{kind}", target, summary) for name, (cls, target, summary) in names.items()
    )


def _rewarded(names: dict[str, str]) -> tuple[Entry, ...]:
    """Methods that learn from a reward: each a file and a class of its name."""
    classes = {"ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "best_of_n": "BestOfN"}
    return tuple(
        Entry(
            name,
            f"rlgym.ssl.finetune.config:{classes[name]}Method",
            f"rlgym.ssl.finetune.{name}:{classes[name]}",
            summary,
        )
        for name, summary in names.items()
    )


def _rewards(names: dict[str, tuple[str, str, str]]) -> tuple[Entry, ...]:
    return tuple(
        Entry(name, f"rlgym.ssl.finetune.config:{config}", f"rlgym.ssl.finetune.rewards:{target}", summary)
        for name, (config, target, summary) in names.items()
    )


def _sb3(names: dict[str, str]) -> tuple[Entry, ...]:
    """Entries of Stable-Baselines3's algorithms, which are one class here."""
    return tuple(
        Entry(
            f"sb3/{name}",
            f"rlgym.agents.sb3.config:SB3{name.upper()}Config",
            "rlgym.agents.sb3.learner:SB3",
            f"Stable-Baselines3's {name.upper()}: {summary}",
        )
        for name, summary in names.items()
    )


BUILT_IN: dict[str, tuple[Entry, ...]] = {
    "agent": (
        Entry(
            "ppo",
            "rlgym.agents.configs.on_policy:PPOConfig",
            "rlgym.agents.ppo:PPO",
            "Proximal Policy Optimization: on-policy, any action space",
        ),
        Entry(
            "a2c",
            "rlgym.agents.configs.on_policy:A2CConfig",
            "rlgym.agents.a2c:A2C",
            "Advantage actor-critic: on-policy, any action space, a gradient step each few environment steps",
        ),
        Entry(
            "reinforce",
            "rlgym.agents.configs.on_policy:ReinforceConfig",
            "rlgym.agents.reinforce:Reinforce",
            "REINFORCE with a learned baseline: on-policy, any action space, whole returns",
        ),
        Entry(
            "dqn",
            "rlgym.agents.configs.q_learning:DQNConfig",
            "rlgym.agents.dqn:DQN",
            "Deep Q-learning: off-policy, discrete actions; double, dueling, n-step, prioritised, noisy, C51 or QR",
        ),
        Entry(
            "rainbow",
            "rlgym.agents.configs.q_learning:RainbowConfig",
            "rlgym.agents.dqn:DQN",
            "Rainbow: DQN with all of its parts, at the published values",
        ),
        Entry(
            "pqn",
            "rlgym.agents.configs.q_learning:PQNConfig",
            "rlgym.agents.pqn:PQN",
            "Parallel Q-learning: discrete actions, many environments, neither replay nor target network",
        ),
        Entry(
            "sac",
            "rlgym.agents.configs.continuous:SACConfig",
            "rlgym.agents.sac:SAC",
            "Soft Actor-Critic: off-policy, continuous actions, entropy held by itself",
        ),
        Entry(
            "td3",
            "rlgym.agents.configs.continuous:TD3Config",
            "rlgym.agents.td3:TD3",
            "Twin Delayed DDPG: off-policy, continuous actions, a deterministic policy",
        ),
        Entry(
            "alphazero",
            "rlgym.agents.configs.alphazero:AlphaZeroConfig",
            "rlgym.agents.alphazero:AlphaZero",
            "AlphaZero: self-play with search, in games of perfect information",
        ),
        Entry(
            "nfsp",
            "rlgym.agents.configs.nfsp:NFSPConfig",
            "rlgym.agents.nfsp:NFSP",
            "Neural Fictitious Self-Play: small games, also with hidden cards, to an equilibrium",
        ),
        *_sb3(
            {
                "ppo": "on-policy, any bounded action space",
                "a2c": "on-policy, any bounded action space",
                "dqn": "off-policy, discrete actions",
                "sac": "off-policy, continuous actions",
                "td3": "off-policy, continuous actions",
            }
        ),
    ),
    "objective": _text(
        "Config",
        {
            "next_token": ("NextToken", "rlgym.ssl.objectives.next_token:NextToken", "each token from those before it"),
            "masked": ("Masked", "rlgym.ssl.objectives.masked:Masked", "hidden tokens from all others"),
        },
    ),
    "model": _text(
        "Model",
        {
            "gpt2": ("GPT2", "rlgym.ssl.models.gpt2:GPT2", "GPT-2's layout"),
            "llama": ("Llama", "rlgym.ssl.models.llama:Llama", "Llama's layout"),
            "qwen3": ("Qwen3", "rlgym.ssl.models.llama:Qwen3", "Qwen3's layout"),
            "bert": ("Bert", "rlgym.ssl.models.bert:Bert", "BERT's layout"),
            "modernbert": ("ModernBert", "rlgym.ssl.models.modernbert:ModernBert", "ModernBERT's layout"),
            "transformers": (
                "Transformers",
                "rlgym.ssl.models.transformers_model:TransformersBackbone",
                "an architecture of transformers by name",
            ),
        },
    ),
    "data": _text(
        "Data",
        {
            "stdlib": ("Stdlib", "", "the Python standard library's source"),
            "additions": ("Additions", "", "additions of two-digit numbers"),
            "text": ("Text", "", "text files, folders, globs"),
            "jsonl": ("Jsonl", "", "JSON lines"),
            "csv": ("Csv", "", "tables of text"),
            "parquet": ("Parquet", "", "Parquet files"),
            "hub": ("Hub", "", "any data set that `datasets` loads"),
            "default": ("Default", "", "of fine-tuning: what the method brings itself, nothing to download"),
        },
    ),
    "method": (
        Entry(
            "classification",
            "rlgym.ssl.finetune.config:ClassificationMethod",
            "rlgym.ssl.finetune.classification:Classification",
            "a label for each text",
        ),
        Entry(
            "regression",
            "rlgym.ssl.finetune.config:RegressionMethod",
            "rlgym.ssl.finetune.regression:Regression",
            "a number for each text",
        ),
        Entry(
            "instruction",
            "rlgym.ssl.finetune.config:InstructionMethod",
            "rlgym.ssl.finetune.instruction:Instruction",
            "answers to prompts, from examples",
        ),
        Entry(
            "reward_model",
            "rlgym.ssl.finetune.config:RewardModelMethod",
            "rlgym.ssl.finetune.reward_model:RewardModelling",
            "preferences: a number that is higher for better answers",
        ),
        Entry(
            "dpo",
            "rlgym.ssl.finetune.config:DPOMethod",
            "rlgym.ssl.finetune.dpo:DPO",
            "preferences: directly, without a reward model",
        ),
        *_rewarded(
            {
                "ppo": "a reward: per-token values, GAE, KL in the reward",
                "grpo": "a reward: against the mean of a group of completions",
                "rloo": "a reward: each completion against the mean of the others",
                "best_of_n": "a reward: cross-entropy on the best of n completions",
            }
        ),
    ),
    "reward": (
        Entry("default", "rlgym.ssl.finetune.config:DefaultReward", "", "the method's own"),
        *_rewards(
            {
                "python_syntax": ("PythonSyntaxReward", "PythonSyntax", "Python that parses and does something"),
                "arithmetic": ("ArithmeticReward", "Arithmetic", "the exact answer"),
                "regex": ("RegexReward", "Regex", "a pattern in the completion"),
                "length": ("LengthReward", "Length", "a length in characters"),
                "reward_model": ("ModelReward", "Model", "what a run of method=reward_model says"),
                "sum": ("SumReward", "Sum", "a weighted sum of rewards"),
            }
        ),
    ),
    "tokenizer": _text(
        "Tokenizer",
        {
            "bpe": ("Bpe", "", "byte-level byte-pair encoding, trained on the corpus"),
            "char": ("Char", "", "one token a character"),
            "byte": ("Byte", "", "one token a byte"),
            "existing": ("Existing", "", "a tokenizer that is there"),
        },
    ),
    "optimizer": _text(
        "Optimizer",
        {
            "adamw": ("AdamW", "rlgym.optim.adamw:AdamW", "AdamW"),
            "muon": ("Muon", "rlgym.optim.muon:Muon", "Muon for the layers' matrices, AdamW for the rest"),
        },
    ),
}
OPEN = {"agent": "rlgym.agents", "objective": "rlgym.objectives", "reward": "rlgym.rewards"}
"""Groups that take a user's own code, as module:Class or as an entry point of this group."""
OWN_CONFIG = {"reward": "rlgym.ssl.finetune.config:OwnReward"}
"""The knobs of a user's own code in groups where it is a function, which has no Config beside it."""


@cache
def entry_points(group: str) -> metadata.EntryPoints:
    """Of the installed packages; once a process, as it takes a sixth of composing."""
    return metadata.entry_points(group=group)


def entries(group: str) -> dict[str, Entry]:
    """Everything of a group with a name of its own; built-in ones cannot be replaced."""
    installed = {e.name: _own(group, e.name, e.value) for e in entry_points(OPEN[group])} if group in OPEN else {}
    return installed | {entry.name: entry for entry in BUILT_IN[group]}


def entry(group: str, name: str) -> Entry:
    if ":" in name and group in OPEN:
        return _own(group, name, name)
    known = entries(group)
    if name not in known:
        own = ", or module:Class" if group in OPEN else ""
        near = did_you_mean(name, known, f"{group}=") or f": one of {', '.join(known)}{own}"
        raise RequestError(f"{group}={name} not found{near}")
    return known[name]


def _own(group: str, name: str, value: str) -> Entry:
    return Entry(name, OWN_CONFIG.get(group, f"{value}.Config"), value, f"from {value}")


def config_of(found: Entry) -> Any:
    """What an entry names as its knobs. A class of a person's own without a Config takes that of the built-in class
    that it inherits from; Stable-Baselines3's algorithms are one class, which has none."""
    if found.config == f"{found.target}.Config" and not hasattr(own := resolve(found.target), "Config"):
        built_in = {e.target: e.config for group in OPEN for e in reversed(BUILT_IN[group]) if "/" not in e.name}
        for base in getattr(own, "__mro__", ()):
            if (name := f"{base.__module__}:{base.__qualname__}") in built_in:
                return resolve(built_in[name])
    return resolve(found.config)


def learner_class(config: Any) -> Any:
    """The class that trains what a root config says."""
    return resolve(config.learner or entry(config.learner_group, config.learner_name).target)


def resolve(name: str) -> Any:
    """What `module:Name` (or `module:Name.attribute`) names."""
    module, _, path = name.partition(":")
    if not module or not path:
        raise RequestError(f"{name}: must be module:Name")
    found: Any = import_own(module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise RequestError(f"no {part} in {getattr(found, '__name__', module)}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    return found


def import_own(module: str) -> ModuleType:
    """A user's own module. Someone else's may raise anything while it is imported: RequestError."""
    see_current_folder()
    try:
        return import_module(module)
    except Exception as error:
        raise RequestError(f"cannot import {module}: {type(error).__name__}: {error}") from error


def see_current_folder() -> None:
    """`module:Name` may lie in the current folder under the console script too, as it does under `python -m`.

    Last on the path, so that no file there can stand in for an installed module.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
