"""The hyper-parameters of Stable-Baselines3's agents: names, types and defaults are those of the installed library.

They are read from the signatures in its source. Importing it takes two seconds, which `--help` need not wait for.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlgym.config.schema import knob

Argument = tuple[str, list[str], Any]
"""Name, the members of its type (`float | None`: float, None), default."""

POLICY = ("net_arch", "activation_fn", "ortho_init", "log_std_init", "n_critics")
"""Arguments of the library's policies that are hyper-parameters here."""
PLAIN = {"bool": bool, "int": int, "float": float, "str": str}
ACTIVATIONS = ("tanh", "relu", "elu", "leaky_relu")
OVER_BUDGET: dict[str, Any] = {
    "help": "schedule: linear to zero over the budget, or constant",
    "choices": ("constant", "linear"),
}

HELP: dict[str, dict[str, Any]] = {
    "learning_rate": {"help": "the optimiser's step size at the start, of every network", "gt": 0},
    "n_steps": {"help": "steps of each environment in one rollout", "gt": 0},
    "batch_size": {"help": "transitions in one gradient step", "gt": 0},
    "n_epochs": {"help": "passes over a rollout", "gt": 0},
    "gamma": {"help": "discount factor", "ge": 0, "le": 1},
    "gae_lambda": {"help": "generalised advantage estimation's lambda; 1: the n-step return", "ge": 0, "le": 1},
    "clip_range": {"help": "how far the probability ratio may leave 1", "gt": 0},
    "clip_range_vf": {"help": "clip of the value's change; empty: none", "gt": 0, "needs": "vf_coef!=0"},
    "normalize_advantage": {"help": "scale the advantages of a minibatch to mean 0 and deviation 1"},
    "ent_coef": {"help": "weight of the entropy bonus", "ge": 0},
    "vf_coef": {"help": "weight of the value loss", "ge": 0},
    "max_grad_norm": {"help": "gradients are scaled down to this norm", "gt": 0},
    "target_kl": {"help": "end an update's epochs once the approximate KL passes 1.5 times this", "gt": 0},
    "use_rms_prop": {"help": "RMSprop, as the paper has; else Adam"},
    "rms_prop_eps": {"help": "RMSprop's epsilon", "gt": 0, "needs": "use_rms_prop=true"},
    "use_sde": {"help": "generalised state-dependent exploration in place of independent noise; Box actions only"},
    "sde_sample_freq": {
        "help": "steps between new exploration matrices; -1: one for each rollout",
        "ge": -1,
        "needs": "use_sde=true",
    },
    "use_sde_at_warmup": {
        "help": "state-dependent exploration from the first step, in place of random actions",
        "needs": "use_sde=true",
    },
    "buffer_size": {"help": "capacity of the replay in transitions, all environments together", "gt": 0},
    "learning_starts": {"help": "random transitions before the first gradient step", "ge": 0},
    "tau": {"help": "share of the networks that a target update moves their targets by", "gt": 0, "le": 1},
    "train_freq": {
        "help": "steps of all environments (or episodes, by train_freq_unit) between updates",
        "gt": 0,
    },
    "gradient_steps": {"help": "gradient steps in one update; -1: one for each transition gathered", "ge": -1},
    "target_update_interval": {"help": "transitions between target updates", "gt": 0},
    "exploration_fraction": {"help": "share of the budget over which epsilon falls", "gt": 0, "le": 1},
    "exploration_initial_eps": {"help": "epsilon at the start", "ge": 0, "le": 1},
    "exploration_final_eps": {"help": "epsilon in the end", "ge": 0, "le": 1},
    "policy_delay": {"help": "the critics' gradient steps for each one of the actor and of the targets", "gt": 0},
    "target_policy_noise": {"help": "deviation of the noise on the target policy's actions", "ge": 0},
    "target_noise_clip": {"help": "bound of that noise", "ge": 0, "needs": "target_policy_noise!=0"},
    "target_entropy": {
        "help": "entropy that a learned weight aims at; auto: minus the action's dimensions",
        "needs": "ent_coef=auto*",
    },
    "net_arch": {"help": "widths of the hidden layers; empty: the library's own choice", "gt": 0},
    "activation": {"help": "activation function of the hidden layers", "choices": ACTIVATIONS},
    "ortho_init": {"help": "orthogonal initial weights"},
    "log_std_init": {"help": "initial log deviation of a Gaussian policy"},
    "n_critics": {"help": "critics, the least of which counts", "gt": 0, "le": 1_000},
}
"""Help line and bounds of what the library's algorithms take; an argument that is not here stays the library's own."""

OFF_POLICY: dict[str, dict[str, Any]] = {
    "n_steps": {"help": "rewards summed before a target's value; more than 1 not with Dict observations"}
}
OF_SAC: dict[str, dict[str, Any]] = {
    "ent_coef": {"help": "weight of the entropy: learned (auto, or auto_0.1 to begin at 0.1), or a number", "ge": None},
    "target_update_interval": {"help": "gradient steps between target updates"},
    "log_std_init": {"help": "initial log deviation, with use_sde", "needs": "use_sde=true"},
}

OWN: dict[str, dict[str, tuple[type, Any]]] = {
    "buffer_size": {
        "save_replay": (
            bool,
            knob(True, "keep the replay in checkpoints; without it a resume starts empty"),
        )
    },
    "train_freq": {
        "train_freq_unit": (
            str,
            knob("step", "what train_freq counts; episode needs env.num_envs=1", choices=("step", "episode")),
        )
    },
    "action_noise": {
        "action_noise": (
            str,
            knob("none", "added to actions while gathering", choices=("none", "normal", "ornstein_uhlenbeck")),
        ),
        "action_noise_std": (
            float,
            knob(0.1, "its deviation, where actions span [-1, 1]", ge=0, needs="action_noise!=none"),
        ),
    },
}
"""Own options, keyed by the library's argument that they are listed after or replace."""


@cache
def arguments(file: str, name: str) -> dict[str, Argument]:
    """The arguments of class `name`'s constructor in a file of the library, those with a default."""
    spec = find_spec("stable_baselines3")
    assert spec is not None and spec.submodule_search_locations is not None
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text())
    (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    (init,) = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    taken = init.args.args[-len(init.args.defaults) :]
    return {
        arg.arg: (arg.arg, list(_members(arg.annotation)), default)
        for arg, default in zip(taken, init.args.defaults, strict=True)
    }


def _members(annotation: ast.expr | None) -> Iterator[str]:
    if isinstance(annotation, ast.BinOp):
        yield from _members(annotation.left)
        yield from _members(annotation.right)
    elif annotation is not None:
        yield ast.unparse(annotation)


def _value(default: ast.expr) -> Any:
    if isinstance(default, ast.Attribute):  # nn.Tanh, nn.ReLU
        return default.attr.lower()
    return ast.literal_eval(default)


def _fields(file: str, name: str, policy: str, own_help: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and dataclass field of each knob."""
    policy_file = file if "/" not in file else f"{file.split('/')[0]}/policies.py"
    policy_file = policy_file if policy != "ActorCriticPolicy" else "common/policies.py"
    of_policy = [each for key, each in arguments(policy_file, policy).items() if key in POLICY]
    yield "name", str, knob(f"sb3/{name.lower()}", "the agent's name in the registry")
    for argument, members, default in [*arguments(file, name).values(), *of_policy]:
        key = argument.removesuffix("_fn")
        if key in HELP:
            value = _value(default)
            kind: Any = str if key == "activation" or "str" in members else PLAIN.get(members[0], list[int])
            if isinstance(value, int) and kind is float:
                value = float(value)
            words = {**HELP[key], **own_help.get(key, {})}
            yield key, kind | None if "None" in members else kind, knob(value, **words)
            if "Schedule" in members and "None" not in members:
                yield f"{key}_schedule", str, knob("constant", **OVER_BUDGET)
        for own, (own_kind, field) in OWN.get(argument, {}).items():
            yield own, own_kind, field


def _config(
    file: str, name: str, policy: str, own_help: dict[str, dict[str, Any]], check: Callable[[Any], None] | None = None
) -> Any:
    """The dataclass of one algorithm's hyper-parameters."""
    namespace: dict[str, Any] = {"__doc__": f"stable_baselines3.{name}.", "__module__": __name__}
    if check is not None:
        namespace["__post_init__"] = check
    return make_dataclass(f"SB3{name}Config", _fields(file, name, policy, own_help), namespace=namespace)


def _check_ppo(knobs: Any) -> None:
    if knobs.batch_size == 1 and knobs.normalize_advantage:
        raise ValueError("batch_size=1: one advantage has no deviation; normalize_advantage=false would do")


def _check_learns(knobs: Any) -> None:
    if knobs.gradient_steps == 0:
        raise ValueError("gradient_steps=0 would learn nothing; give a number of steps, or -1 for one a transition")


def _check_sac(knobs: Any) -> None:
    _check_learns(knobs)
    learned, begin = knobs.ent_coef.startswith("auto"), knobs.ent_coef.removeprefix("auto_")
    if knobs.ent_coef != "auto" and (not _is_number(begin) or float(begin) < 0 or (learned and float(begin) == 0)):
        raise ValueError(f"ent_coef={knobs.ent_coef}: must be auto, auto_X with X > 0, or a number >= 0")
    if knobs.target_entropy != "auto" and not _is_number(knobs.target_entropy):
        raise ValueError(f"target_entropy={knobs.target_entropy}: must be auto or a number")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


SB3PPOConfig = _config("ppo/ppo.py", "PPO", "ActorCriticPolicy", {}, _check_ppo)
SB3A2CConfig = _config("a2c/a2c.py", "A2C", "ActorCriticPolicy", {})
SB3DQNConfig = _config("dqn/dqn.py", "DQN", "DQNPolicy", OFF_POLICY, _check_learns)
SB3SACConfig = _config("sac/sac.py", "SAC", "SACPolicy", OFF_POLICY | OF_SAC, _check_sac)
SB3TD3Config = _config("td3/td3.py", "TD3", "TD3Policy", OFF_POLICY, _check_learns)
