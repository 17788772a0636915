"""The search space of a sweep: keys with ranges in Hydra's grammar, and default ranges of agents.

agent.gamma=choice(0.98,0.99,0.999) or 0.98,0.99,0.999     one of these
agent.n_steps=range(32,129,32)                             32, 64, 96, 128: in order
agent.ent_coef=interval(0,0.05)                            any number between; whole ones where the key's are
agent.learning_rate=tag(log,interval(1e-4,1e-2))           the same, each factor as likely as the next
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import yaml
from hydra.core.override_parser.types import IntervalSweep, Override

from rlgym.config.groups import GROUPS, roots
from rlgym.config.overrides import parse_word
from rlgym.errors import RequestError

DIGITS = 4
"""Significant digits of drawn numbers."""
FIXED = {
    "seed": "seeds=N says on how many seeds each trial trains",
    "steps": "trials compare at one budget",
    "updates": "trials compare at one budget",
    "run.dir": "it is the folder of the whole sweep",
    "run.name": "the sweep names its runs",
}
"""Keys that cannot be searched, with reasons."""


@dataclass(frozen=True)
class Axis:
    """One searched key: a number between `low` and `high`, or an index into `texts`."""

    key: str
    texts: tuple[str, ...] = ()
    ordered: bool = False
    """Whether `texts` are ordered."""
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False

    def distribution(self) -> Any:
        """The distribution for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.texts and self.ordered:
            return IntDistribution(0, len(self.texts) - 1)
        if self.texts:
            return CategoricalDistribution(self.texts)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def word(self, point: Any) -> str:
        """The `key=value` argument for Optuna's choice."""
        if self.texts:
            return f"{self.key}={self.texts[point] if self.ordered else point}"
        if self.whole:
            return f"{self.key}={point}"
        rounded = float(f"{point:.{DIGITS}g}")
        return f"{self.key}={rounded if self.low <= rounded <= self.high else point!r}"

    def ends(self) -> list[str]:
        """Arguments that test whether the key accepts the possible values."""
        if self.texts:
            return [f"{self.key}={text}" for text in self.texts]
        return [self.word(int(end) if self.whole else end) for end in (self.low, self.high)]

    def point(self, value: Any) -> Any:
        """Position of a config's value on the axis; None if it is not on it."""
        if self.texts:
            matches = [index for index, text in enumerate(self.texts) if _says(text, value)]
            return None if not matches else matches[0] if self.ordered else self.texts[matches[0]]
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return value


def split(words: Sequence[str], root: str = "train") -> tuple[list[str], dict[str, str]]:
    """Split arguments into those of every trial and the searched keys with their ranges as typed."""
    fixed: list[str] = []
    searched: dict[str, str] = {}
    for word in words:
        override = parse_word(word)
        key, text = word.lstrip("+").split("=", 1)
        if not override.is_sweep_override():
            fixed.append(word)
        elif key in GROUPS[root]:
            raise RequestError(f"{word}: a sweep is of one {key}; start one for each, or take -m")
        elif key in FIXED:
            raise RequestError(f"{word}: {key} cannot be searched, {FIXED[key]}")
        else:
            searched[key] = text
    return fixed, searched


def axis(key: str, text: str, hint: Any) -> Axis:
    """Parse the axis of `key=text`; `hint`: the type of the key's values."""
    word = f"{key}={text}"
    override = parse_word(word)
    if override.is_interval_sweep():
        return _interval(word, override, hint)
    if not override.is_discrete_sweep() or "glob(" in text:
        raise RequestError(f"{word}: must be choice(a,b), range(a,b,step), interval(a,b) or tag(log,interval(a,b))")
    if tags := getattr(override.value(), "tags", None):
        raise RequestError(f"{word}: {', '.join(sorted(tags))} is for interval()")
    texts = tuple(override.sweep_string_iterator())
    if len(set(texts)) < 2:
        counts = "range() goes in steps of 1: interval(a,b) would do, or " if text.startswith("range(") else ""
        raise RequestError(
            f"{word}: there is nothing to choose from; {counts}give it as {key}={texts[0] if texts else '...'}"
        )
    return Axis(key, texts, ordered=override.is_range_sweep())


def _interval(word: str, override: Override, hint: Any) -> Axis:
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None
    kinds = get_args(hint) or (hint,)
    if not {int, float, object} & set(kinds):
        raise RequestError(f"{word}: {override.key_or_group} is not a number; choice(a,b) searches among values")
    if unknown := sweep.tags - {"log"}:
        raise RequestError(f"{word}: the tag {', '.join(sorted(unknown))} is unknown; tag(log,interval(a,b)) is known")
    whole = (int in kinds and float not in kinds) or isinstance(sweep.start, int)
    low, high = (math.ceil(sweep.start), math.floor(sweep.end)) if whole else (float(sweep.start), float(sweep.end))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RequestError(f"{word}: must go from a smaller to a larger number")
    if "log" in sweep.tags and low <= 0:
        raise RequestError(f"{word}: a logarithmic range begins above 0")
    return Axis(override.key_or_group, low=low, high=high, whole=whole, log="log" in sweep.tags)


def hint_of(config: Any, key: str) -> Any:
    """The declared type of a dotted key; object if unknown."""
    node, *rest = key.split(".", 1)
    if not is_dataclass(config) or node not in {f.name for f in fields(config)}:
        return object
    if rest:
        return hint_of(getattr(config, node), rest[0])
    return get_type_hints(type(config))[node]


def default_space(agent: str, config_dir: str | None) -> dict[str, str]:
    """The ranges of conf/search/<agent>.yaml, the user's folder first."""
    for tree in roots(config_dir):
        file = tree
        for part in ("search", *f"{agent}.yaml".split("/")):
            file = file / part
        if file.is_file():
            loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
            if not isinstance(loaded, dict) or not all(isinstance(text, str) for text in loaded.values()):
                raise RequestError(f"{file}: must be lines of KEY: RANGE")
            return {str(key): text for key, text in loaded.items()}
    raise RequestError(
        f"agent={agent} has no ranges of its own to search; give some, "
        "like 'agent.learning_rate=tag(log,interval(1e-4,1e-2))'"
    )


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in nested plain data; None if missing."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _says(text: str, value: Any) -> bool:
    """Whether a string on the command line denotes this value."""
    if isinstance(value, bool) or value is None:
        return text.lower() in (("null", "none") if value is None else (str(value).lower(),))
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text.strip("'\"").replace(" ", "") == str(value).replace(" ", "").replace("'", "")
