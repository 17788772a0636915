"""The words of the commands on a finished run: plain `key=value`, split at the first `=`, the text as typed.

Hydra's grammar would eat quotes, brackets and commas of a prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from rlgym.config.effect import refuse_without_effect
from rlgym.config.parser import build, to_dict
from rlgym.config.schema import DEVICE, DEVICES, knob
from rlgym.errors import RequestError

TRUST = "import the code that the run's config names by module:Name"
CHECKPOINT = "best, latest or the N of a checkpoints/step_N"
ALGO = "which of Stable-Baselines3's algorithms saved it"
ALGOS = ("ppo", "a2c", "dqn", "sac", "td3")
TRUST_ARCHIVE = "read the archive, which can run any code that its maker put in"
AGE = "only those begun since then: a day (2026-11-20), or an age (30m, 12h, 2d)"


@dataclass
class ResumeOptions:
    steps: int | None = knob(None, "new budget in environment steps, those already done included", gt=0)
    tokens: int | None = knob(None, "new budget in tokens, those already seen included", gt=0)
    updates: int | None = knob(None, "new budget in updates, those already done included", gt=0)
    minutes: float | None = knob(None, "new budget in minutes, those already spent included", gt=0)
    schedule_steps: int | None = knob(None, "steps over which schedules run; empty: as the run began", gt=0)
    schedule_tokens: int | None = knob(None, "tokens over which schedules run; empty: as the run began", gt=0)
    device: str | None = knob(None, "cpu, cuda, cuda:N or mps; empty: as the run began", pattern=DEVICE)
    display: str = knob("auto", "progress on the terminal", choices=("auto", "rich", "plain", "quiet"))
    replay: bool = knob(True, "false: go on without the replay, which is gathered anew before learning goes on")
    force: bool = knob(False, "go on although the corpus is no longer the one that the run began with")
    trust: bool = knob(False, TRUST)


@dataclass
class EvaluateOptions:
    episodes: int = knob(100, "fresh episodes to play; of a game, against each opponent, half from each seat", gt=0)
    opponents: str = knob("", "of a game: a comma list of random, one_ply, mcts_K and RUNs; empty: the first two")
    positions: str = knob("", "of connect_four: error rate in a file's positions (moves score), or in drawn ones")
    max_episode_steps: int | None = knob(
        None, "steps at which an episode is cut off, with a notice; empty: as in training", gt=0
    )
    seed: int | None = knob(None, "seed of those episodes; empty: one that training never used", ge=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)


@dataclass
class PlayOptions:
    episodes: int = knob(1, "episodes to show", gt=0)
    render: str = knob(
        "auto",
        "a file in the run's videos/, a window, or, of a game, the terminal; auto: of a game the terminal, else a file",
        choices=("auto", "video", "window", "terminal"),
    )
    against: str = knob("", "of a game: the opponent, random, one_ply, mcts_K or a RUN; empty: you, in the terminal")
    seat: str | None = knob(None, "of a game: the opponent's seat; empty: first", choices=("first", "second"))
    seed: int | None = knob(None, "seed of those episodes; empty: one that training never used", ge=0)
    checkpoint: str = knob("best", CHECKPOINT)
    trust: bool = knob(False, TRUST)


@dataclass
class EvaluateArchiveOptions:
    env: str = knob("", "the environment's id, as in train")
    algo: str | None = knob(None, ALGO, choices=ALGOS)
    episodes: int = knob(100, "fresh episodes to play", gt=0)
    num_envs: int = knob(8, "environments stepped in parallel", gt=0)
    max_episode_steps: int | None = knob(
        None, "steps at which an episode is cut off, with a notice; empty: its own limit", gt=0
    )
    seed: int | None = knob(None, "seed of those episodes; empty: always the same one", ge=0)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST_ARCHIVE)


@dataclass
class PlayArchiveOptions:
    env: str = knob("", "the environment's id, as in train")
    algo: str | None = knob(None, ALGO, choices=ALGOS)
    episodes: int = knob(1, "episodes to show", gt=0)
    render: str = knob("video", "a file in videos/ beside the archive, or a window", choices=("video", "window"))
    seed: int | None = knob(None, "seed of those episodes; empty: always the same one", ge=0)
    trust: bool = knob(False, TRUST_ARCHIVE)


@dataclass
class EvaluateTextOptions:
    data: str = knob("", "a corpus as in pretrain (data=text data.path=F), or a text file; empty: what was held out")
    tokens: int | None = knob(None, "evaluate at most this many tokens; empty: all", gt=0)
    batch_size: int = knob(16, "blocks evaluated at once", gt=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)
    settings: dict[str, str] = knob({}, "knobs of the corpus, as data.path=corpus.txt")


@dataclass
class GenerateOptions:
    prompt: str = knob("", "what the text begins with, as typed; empty: the beginning of a document")
    samples: int = knob(1, "texts to generate, in one batch", gt=0)
    tokens: int = knob(200, "new tokens at most", gt=0)
    temperature: float = knob(0.8, "below 1: likelier tokens, 0: always the likeliest", ge=0)
    top_k: int | None = knob(None, "only among the k likeliest tokens", gt=0, needs="temperature!=0")
    top_p: float | None = knob(
        None, "only among the likeliest tokens that together have this probability", gt=0, le=1, needs="temperature!=0"
    )
    seed: int | None = knob(
        None, "the same seed gives the same text; empty: another each time", ge=0, needs="temperature!=0"
    )
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)


@dataclass
class FillOptions:
    text: str = knob("", "text with one or more [MASK], as typed")
    top: int = knob(5, "guesses for each [MASK]", gt=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)


@dataclass
class ExportOptions:
    path: str = knob("", "folder to write; empty: the run's export/")
    checkpoint: str = knob("best", CHECKPOINT)
    trust: bool = knob(False, TRUST)


@dataclass
class EvaluateExamplesOptions:
    data: str = knob("", "other examples: a table's file, or data=csv data.path=F; empty: what was held out")
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)
    settings: dict[str, str] = knob({}, "knobs of the table, as data.path=spam.csv")


@dataclass
class PredictOptions:
    text: str = knob("", "one text, as typed")
    data: str = knob("", "texts: a table's file, or data=csv data.path=F")
    column: str = knob("", "column of the text; empty: as in training, or found", needs="data!=")
    out: str = knob("", "file to write, .csv, .tsv or .jsonl: the table with what is predicted; empty: printed")
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)
    settings: dict[str, str] = knob({}, "knobs of the table, as data.path=texts.csv")


@dataclass
class ExportAdaptedOptions(ExportOptions):
    adapter: bool = knob(False, "of a run with adapt.mode=lora: the additions alone, as peft reads them, not merged")


@dataclass
class RunsOptions:
    agent: str = knob("", "only these: a comma list, in which * stands for anything (agent=ppo,sb3/*)")
    env: str = knob("", "only these, as env=CartPole-v1 or env=ALE/*")
    seed: str = knob("", "only these")
    status: str = knob("", "only finished, running, stopped, failed, killed or broken")
    since: str = knob("", AGE)
    sort: str = knob("", "column to sort by; a leading - reverses (sort=-final)")
    limit: int | None = knob(None, "at most this many lines; empty: all", gt=0)
    tree: bool = knob(False, "each run below the one it began with: pretrain, finetune, reward (--tree does, too)")


@dataclass
class CompareOptions:
    agent: str = knob("", "only these: a comma list, in which * stands for anything (agent=ppo,sb3/*)")
    env: str = knob("", "only these, as env=CartPole-v1 or env=ALE/*")
    since: str = knob("", AGE)
    by: str = knob("", "keys whose values set runs of one agent apart, as by=agent.learning_rate,agent.n_steps")
    metric: str = knob("", "tag of metrics.jsonl to score by; empty: eval/mean_reward, of text validation/loss")
    score: str = knob(
        "auto",
        "source: `evaluate RUN`, the last evaluation in training, or training returns; auto: the first all have",
        choices=("auto", "evaluate", "training", "rollout"),
    )
    at: int | None = knob(None, "score training's evaluations up to this step; empty: at the end", gt=0)
    scores: str = knob("", "scores that normalise to 0 and 1, as CartPole-v1:22:475,Acrobot-v1:-500:-100")
    unfinished: bool = knob(False, "include runs that failed or were stopped, with what they reached")
    out: str = knob("", "folder to write; empty: runs/compare_<time>")


@dataclass
class SweepOptions:
    trials: int = knob(50, "number of trials, those of an interrupted sweep included", gt=0)
    minutes: float | None = knob(None, "minutes after which no trial starts; empty: no limit", gt=0)
    seeds: int = knob(3, "seeds of each trial: seed, seed + 1, ...; a pruned one has fewer", gt=0)
    jobs: int = knob(1, "trials at a time, each in a process with one thread", gt=0, le=1_024)
    score: str = knob(
        "last",
        "which evaluation is the score: the last, the best, or the mean of all (favours fast learners)",
        choices=("last", "best", "mean"),
    )
    pruning: bool = knob(True, "end a trial that falls below the median of the trials before it")
    overwrite: bool = knob(False, "replace an existing tuned file")
    trust: bool = knob(False, TRUST)


@dataclass
class RerunOptions:
    trust: bool = knob(False, TRUST)


def read(cls: type, words: Sequence[str]) -> dict[str, Any]:
    """Every key of `cls`, typed: from the words where given, its default elsewhere."""
    given: dict[str, Any] = {}
    for key, text in map(split, once(words)):
        group, dot, inner = key.partition(".")
        if dot and group == "data" and "settings" in {f.name for f in fields(cls)}:
            given.setdefault("settings", {})[inner] = text
        else:
            given[key] = text
    built: Any = build(cls, given)
    refuse_without_effect(built, {key: given[key] for key in given if key != "settings"})
    typed = to_dict(built)
    checkpoint = typed.get("checkpoint", "best")
    if checkpoint not in ("best", "latest") and not checkpoint.isdecimal():
        raise RequestError(f"checkpoint={checkpoint}: must be {CHECKPOINT}")
    return typed


def once(words: Sequence[str]) -> Sequence[str]:
    """The words of a command line, which gives each key once: the first of two would not even be checked."""
    before: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.lstrip("+").partition("=")
        if equals and key in before:
            raise RequestError(f"{word}: {key} is given twice, first as {before[key]}; leave out one of the two")
        before[key] = word
    return words


def matching(names: str) -> Callable[[str], bool]:
    """Whether a value is one of a comma list, in which * stands for anything; case does not count."""
    patterns = [name.strip().lower() for name in names.split(",") if name.strip()]
    return lambda value: any(fnmatchcase(value.lower(), pattern) for pattern in patterns)


def age(since: str) -> float:
    """Seconds that have passed since a day or time (2026-11-20, 2026-11-20T14:00), or that an age (12h) is."""
    unit = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}.get(since[-1:])
    try:
        seconds = float(since[:-1]) * unit if unit else time.time() - datetime.fromisoformat(since).timestamp()
    except ValueError:
        raise RequestError(f"since={since}: must be a day like 2026-11-20, or an age like 30m, 12h, 2d") from None
    return seconds


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
