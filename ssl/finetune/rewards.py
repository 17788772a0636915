"""Reward functions of prompts, completions and whether each completion ended. A reward is built from its config and has
`score(prompts, completions, ended) -> Tensor [n]`, float32. Results of user functions are checked at each call.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from rlgym.config import registry
from rlgym.config.io import config_class
from rlgym.config.parser import build
from rlgym.errors import RequestError

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import LengthReward, ModelReward, RegexReward, SumReward


class RewardFault(Exception):
    """Raised, with one line of explanation, if a reward raises or does not return a number for each completion."""


class Reward(Protocol):
    def score(self, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        """Rewards `[n]` of n completions. `ended`: which completions the model ended itself, by its end of text."""
        ...


def build_reward(config: Any) -> Reward:
    """Build the reward of a config; RequestError if invalid. Imports module:function if named; `load_config` has
    refused that in untrusted configs."""
    entry = registry.entry("reward", config.name)
    if entry.config == registry.OWN_CONFIG["reward"]:
        return OwnFunction(config.name, registry.resolve(entry.target))
    made: Reward = registry.resolve(entry.target)(config)
    return made


def score(
    reward: Reward, name: str, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]
) -> Tensor:
    """Call `reward.score` and check the result: RewardFault if it raises, or does not return a finite number for each
    completion."""
    try:
        found = torch.as_tensor(reward.score(prompts, completions, ended)).detach().cpu().float()
    except RewardFault:
        raise
    except Exception as error:  # a user's function may raise anything
        said = " ".join(str(error).split())
        raise RewardFault(f"reward={name} raised {type(error).__name__}{': ' if said else ''}{said}") from error
    if found.shape != (len(completions),):
        raise RewardFault(
            f"reward={name} gave {_shape(found)} for {len(completions)} completions; expected one number for each"
        )
    if not bool(found.isfinite().all()):
        row = int((~found.isfinite()).nonzero()[0])
        raise RewardFault(f"reward={name} gave {float(found[row])} for {prompts[row] + completions[row]!r:.200}")
    return found


def _shape(found: Tensor) -> str:
    return "a single number" if found.ndim == 0 else f"numbers of shape {list(found.shape)}"


# ---- the rewards


class PythonSyntax:
    """1 if prompt and completion together are valid Python that does something, else 0. Parsed, never run. The body of
    the prompt's function or class (else the whole text) must contain a statement that is neither `pass` nor a bare
    constant (a docstring, `...`). A truncated completion gets 0.
    """

    def __init__(self, config: Any) -> None:
        pass

    def score(self, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        rows = zip(prompts, completions, ended, strict=True)
        return torch.tensor([float(end and does_something(prompt + text)) for prompt, text, end in rows])


def does_something(source: str) -> bool:
    """Whether `source` parses, and the body of its first statement, if any, is not only placeholders."""
    try:
        with warnings.catch_warnings():  # invalid escapes
            warnings.simplefilter("ignore")
            statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the parser's exceptions
        return False
    if statements and isinstance(statements[0], ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        statements = statements[0].body
    return any(not _placeholder(statement) for statement in statements)


def _placeholder(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


class Arithmetic:
    """1 if the completion is exactly the value of the expression at the prompt's end (`12+34=`), and ended, else 0."""

    def __init__(self, config: Any) -> None:
        pass

    def score(self, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        rows = zip(prompts, completions, ended, strict=True)
        return torch.tensor([float(end and text.strip() == answer(prompt)) for prompt, text, end in rows])


EXERCISE = re.compile(r"(-?\d{1,30}(?:\s*[-+*]\s*\d{1,30})*)\s*=\s*$")


def answer(prompt: str) -> str:
    """Value of the last `a+b=` in a prompt (+, -, * of integers, * binding stronger). ValueError if there is none."""
    found = EXERCISE.search(prompt)
    if found is None:
        raise ValueError(f"the prompt {prompt!r:.80} does not end with an exercise like 12+34=")
    text = re.sub(r"\s", "", found[1])
    terms = re.findall(r"(^-?|[-+])(\d+(?:\*\d+)*)", text)
    total = 0
    for sign, product in terms:
        value = 1
        for factor in product.split("*"):
            value *= int(factor)
        total += -value if sign == "-" else value
    return str(total)


class Regex:
    """1 if the pattern is found in the completion (or matches all of it), else 0."""

    def __init__(self, config: RegexReward) -> None:
        if not config.pattern:
            raise RequestError(
                'reward.pattern is empty: set what a completion must contain, as in reward.pattern="\\d+"'
            )
        try:
            pattern = re.compile(config.pattern, re.DOTALL)
        except re.error as error:
            raise RequestError(f"reward.pattern={config.pattern}: no regular expression ({error})") from error
        self.matches: Callable[[str], object] = pattern.fullmatch if config.whole else pattern.search

    def score(self, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        return torch.tensor([float(self.matches(text) is not None) for text in completions])


class Length:
    """1 for a completion of `target` characters, falling linearly to 0 at none or twice as many."""

    def __init__(self, config: LengthReward) -> None:
        self.target = config.target

    def score(self, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        return torch.tensor([max(0.0, 1 - abs(len(text) - self.target) / self.target) for text in completions])


class Model:
    """The reward of a run of method=reward_model."""

    def __init__(self, config: ModelReward) -> None:
        from rlgym.run_folder.loading import load

        if not config.run:
            raise RequestError("reward.run is empty: name a run of finetune method=reward_model")
        self.model = load(config.run)
        if not hasattr(self.model, "score"):
            raise RequestError(
                f"reward.run={config.run} is not a reward model; finetune method=reward_model trains one"
            )

    def score(self, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        found: Tensor = self.model.score(list(prompts), list(completions), list(ended))
        return found


class Sum:
    """A weighted sum of rewards."""

    def __init__(self, config: SumReward) -> None:
        if not config.terms:
            raise RequestError(
                "reward.terms is empty: list the rewards to add up, as in "
                "'reward.terms=[{name:python_syntax,weight:1},{name:length,weight:0.2,target:80}]'"
            )
        self.terms: list[tuple[float, str, Reward]] = []
        for number, term in enumerate(config.terms):
            path = f"reward.terms[{number}]"
            knobs: dict[str, Any] = dict(term) if isinstance(term, dict) else {}
            if not isinstance(knobs.get("name"), str):
                raise RequestError(f"{path}: must be a name, a weight and knobs, like {{name:length,weight:0.2}}")
            try:
                weight = float(knobs.pop("weight", 1.0))
            except (TypeError, ValueError):
                raise RequestError(f"{path}.weight={config.terms[number]['weight']}: must be a number") from None
            name = knobs["name"]
            if name in ("sum", "default"):
                raise RequestError(f"{path}.name={name}: must be a reward of its own")
            typed: Any = build(config_class("reward", name), knobs, path)
            self.terms.append((weight, name, build_reward(typed)))

    def score(self, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        total = torch.zeros(len(completions))
        for weight, name, reward in self.terms:
            total += weight * score(reward, name, prompts, completions, ended)
        return total


class OwnFunction:
    """A user's `function(prompts, completions)` on two lists of strings, returning a number for each."""

    def __init__(self, name: str, function: Any) -> None:
        if not callable(function):
            raise RequestError(f"reward={name}: not a function of prompts and completions")
        self.function = function

    def score(self, prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        return torch.as_tensor(self.function(list(prompts), list(completions)))
