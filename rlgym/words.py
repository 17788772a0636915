"""The words of the commands on a finished run: plain `key=value`, split at the first `=`, the text as typed.

Hydra's grammar would eat quotes, brackets and commas of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from rlgym.config import knob
from rlgym.errors import RequestError
from rlgym.typed import build, to_dict

TRUST = "import the code that the run's config names by module:Name"
CHECKPOINT = "best, latest or the N of a checkpoints/step_N"


@dataclass
class ResumeWords:
    steps: int | None = knob(None, "new budget in environment steps, those already done included", gt=0)
    updates: int | None = knob(None, "new budget in updates, those already done included", gt=0)
    minutes: float | None = knob(None, "new budget in minutes, those already spent included", gt=0)
    schedule_steps: int | None = knob(None, "steps over which schedules run; empty: as the run began", gt=0)
    device: str | None = knob(None, "cpu, cuda, cuda:N or mps; empty: as the run began")
    display: str = knob("auto", "progress on the terminal", choices=("auto", "rich", "plain", "quiet"))
    trust: bool = knob(False, TRUST)


@dataclass
class EvaluateWords:
    episodes: int = knob(100, "fresh episodes to play", gt=0)
    seed: int | None = knob(None, "seed of those episodes; empty: one that training never used", ge=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps")
    trust: bool = knob(False, TRUST)


@dataclass
class PlayWords:
    episodes: int = knob(1, "episodes to show", gt=0)
    render: str = knob("video", "a file in the run's videos/, or a window", choices=("video", "window"))
    seed: int | None = knob(None, "seed of those episodes; empty: one that training never used", ge=0)
    checkpoint: str = knob("best", CHECKPOINT)
    trust: bool = knob(False, TRUST)


@dataclass
class RunsWords:
    sort: str = knob("", "column to sort by; a leading - reverses")


@dataclass
class RerunWords:
    trust: bool = knob(False, TRUST)


def read(cls: type, words: Sequence[str]) -> dict[str, Any]:
    """Every key of `cls`, typed: from the words where given, its default elsewhere."""
    given = dict(split(word) for word in words)
    typed = to_dict(build(cls, given))
    checkpoint = typed.get("checkpoint", "best")
    if checkpoint not in ("best", "latest") and not checkpoint.isdecimal():
        raise RequestError(f"checkpoint={checkpoint}: must be {CHECKPOINT}")
    return typed


def split(word: str) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise RequestError(f"{word}: words are key=value")
    return key, text


def positional(cls: type, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The first word where it is no key of `cls` (a folder's name may hold `=`), and the other words."""
    if words and words[0].partition("=")[0] not in {f.name for f in fields(cls)}:
        return words[0], list(words[1:])
    return None, list(words)
