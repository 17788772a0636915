"""The words of the commands on a finished run: plain `key=value`, split at the first `=`, the text as typed.

Hydra's grammar would eat quotes, brackets and commas of a prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    tokens: int | None = knob(None, "new budget in tokens, those already seen included", gt=0)
    updates: int | None = knob(None, "new budget in updates, those already done included", gt=0)
    minutes: float | None = knob(None, "new budget in minutes, those already spent included", gt=0)
    schedule_steps: int | None = knob(None, "steps over which schedules run; empty: as the run began", gt=0)
    schedule_tokens: int | None = knob(None, "tokens over which schedules run; empty: as the run began", gt=0)
    device: str | None = knob(None, "cpu, cuda, cuda:N or mps; empty: as the run began")
    display: str = knob("auto", "progress on the terminal", choices=("auto", "rich", "plain", "quiet"))
    force: bool = knob(False, "go on although the corpus is no longer the one that the run began with")
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
class EvaluateTextWords:
    data: str = knob("", "a corpus as in pretrain (data=text data.path=F), or a text file; empty: what was held out")
    tokens: int | None = knob(None, "judge at most so many tokens; empty: all", gt=0)
    batch_size: int = knob(16, "blocks judged at once", gt=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps")
    trust: bool = knob(False, TRUST)
    settings: dict[str, str] = knob({}, "knobs of the corpus, as data.path=corpus.txt")


@dataclass
class GenerateWords:
    prompt: str = knob("", "what the text begins with, as typed; empty: the beginning of a document")
    samples: int = knob(1, "texts to generate, in one batch", gt=0)
    tokens: int = knob(200, "new tokens at most", gt=0)
    temperature: float = knob(0.8, "below 1: likelier tokens, 0: always the likeliest", ge=0)
    top_k: int | None = knob(None, "only among the k likeliest tokens", gt=0)
    top_p: float | None = knob(None, "only among the likeliest tokens that together have this probability", gt=0, le=1)
    seed: int | None = knob(None, "the same seed gives the same text; empty: another each time", ge=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps")
    trust: bool = knob(False, TRUST)


@dataclass
class FillWords:
    text: str = knob("", "text with one or more [MASK], as typed")
    top: int = knob(5, "guesses for each [MASK]", gt=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps")
    trust: bool = knob(False, TRUST)


@dataclass
class ExportWords:
    path: str = knob("", "folder to write; empty: the run's export/")
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
    given: dict[str, Any] = {}
    for key, text in map(split, words):
        group, dot, inner = key.partition(".")
        if dot and group == "data" and "settings" in {f.name for f in fields(cls)}:
            given.setdefault("settings", {})[inner] = text
        else:
            given[key] = text
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


def positional(keys: Collection[str], words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The first word where it is none of `keys` (a folder's name may hold `=`), and the other words."""
    if words and words[0].partition("=")[0] not in keys:
        return words[0], list(words[1:])
    return None, list(words)
