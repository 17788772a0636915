"""Options of the commands on finished runs: plain `key=value`, split at the first `=`, the value as typed. (Hydra's
grammar would parse quotes, brackets and commas of a prompt.)
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
    steps: int | None = knob(None, "new total budget in environment steps", gt=0)
    tokens: int | None = knob(None, "new total budget in tokens", gt=0)
    updates: int | None = knob(None, "new total budget in updates", gt=0)
    minutes: float | None = knob(None, "new total budget in minutes", gt=0)
    schedule_steps: int | None = knob(None, "steps over which schedules run; empty: unchanged", gt=0)
    schedule_tokens: int | None = knob(None, "tokens over which schedules run; empty: unchanged", gt=0)
    device: str | None = knob(None, "cpu, cuda, cuda:N or mps; empty: unchanged", pattern=DEVICE)
    display: str = knob("auto", "progress on the terminal", choices=("auto", "rich", "plain", "quiet"))
    replay: bool = knob(True, "false: continue with an empty replay, which is refilled before learning continues")
    force: bool = knob(False, "continue although the corpus has changed")
    trust: bool = knob(False, TRUST)


@dataclass
class EvaluateOptions:
    episodes: int = knob(100, "fresh episodes to play; in a game, against each opponent, half from each seat", gt=0)
    opponents: str = knob("", "in a game: a comma list of random, one_ply, mcts_K and RUNs; empty: the first two")
    positions: str = knob("", "in connect_four: error rate in a file's positions (moves score), or in random ones")
    max_episode_steps: int | None = knob(
        None, "steps at which an episode is cut off, with a notice; empty: as in training", gt=0
    )
    seed: int | None = knob(None, "seed of the episodes; empty: one not used in training", ge=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)


@dataclass
class PlayOptions:
    episodes: int = knob(1, "episodes to show", gt=0)
    render: str = knob(
        "auto",
        "a file in the run's videos/, a window, or for games the terminal; auto: the terminal for games, else a file",
        choices=("auto", "video", "window", "terminal"),
    )
    against: str = knob("", "in a game: the opponent, random, one_ply, mcts_K or a RUN; empty: you, in the terminal")
    seat: str | None = knob(None, "in a game: the opponent's seat; empty: first", choices=("first", "second"))
    seed: int | None = knob(None, "seed of the episodes; empty: one not used in training", ge=0)
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
    seed: int | None = knob(None, "seed of the episodes; empty: always the same one", ge=0)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST_ARCHIVE)


@dataclass
class PlayArchiveOptions:
    env: str = knob("", "the environment's id, as in train")
    algo: str | None = knob(None, ALGO, choices=ALGOS)
    episodes: int = knob(1, "episodes to show", gt=0)
    render: str = knob("video", "a file in videos/ beside the archive, or a window", choices=("video", "window"))
    seed: int | None = knob(None, "seed of the episodes; empty: always the same one", ge=0)
    trust: bool = knob(False, TRUST_ARCHIVE)


@dataclass
class EvaluateTextOptions:
    data: str = knob("", "a corpus as in pretrain (data=text data.path=F), or a text file; empty: held-out data")
    tokens: int | None = knob(None, "evaluate at most this many tokens; empty: all", gt=0)
    batch_size: int = knob(16, "blocks evaluated at once", gt=0)
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)
    settings: dict[str, str] = knob({}, "settings of the corpus, as data.path=corpus.txt")


@dataclass
class GenerateOptions:
    prompt: str = knob("", "prompt, as typed; empty: the beginning of a document")
    samples: int = knob(1, "texts to generate, in one batch", gt=0)
    tokens: int = knob(200, "maximum number of new tokens", gt=0)
    temperature: float = knob(0.8, "sampling temperature; 0: always the most likely token", ge=0)
    top_k: int | None = knob(None, "sample from the k most likely tokens", gt=0, needs="temperature!=0")
    top_p: float | None = knob(
        None, "sample from the smallest set of tokens with this total probability", gt=0, le=1, needs="temperature!=0"
    )
    seed: int | None = knob(None, "seed of the samples; empty: a random one", ge=0, needs="temperature!=0")
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
    data: str = knob("", "other examples: a table's file, or data=csv data.path=F; empty: held-out data")
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)
    settings: dict[str, str] = knob({}, "settings of the table, as data.path=spam.csv")


@dataclass
class PredictOptions:
    text: str = knob("", "one text, as typed")
    data: str = knob("", "texts: a table's file, or data=csv data.path=F")
    column: str = knob("", "column of the text; empty: as in training, or detected", needs="data!=")
    out: str = knob("", "file to write, .csv, .tsv or .jsonl: the table with predictions; empty: print them")
    checkpoint: str = knob("best", CHECKPOINT)
    device: str = knob("auto", DEVICES, pattern=DEVICE)
    trust: bool = knob(False, TRUST)
    settings: dict[str, str] = knob({}, "settings of the table, as data.path=texts.csv")


@dataclass
class ExportAdaptedOptions(ExportOptions):
    adapter: bool = knob(False, "for runs with adapt.mode=lora: only the LoRA weights, as peft reads them, not merged")


@dataclass
class RunsOptions:
    agent: str = knob("", "only these: a comma list, in which * stands for anything (agent=ppo,sb3/*)")
    env: str = knob("", "only these, as env=CartPole-v1 or env=ALE/*")
    seed: str = knob("", "only these")
    status: str = knob("", "only finished, running, stopped, failed, killed or broken")
    since: str = knob("", AGE)
    sort: str = knob("", "column to sort by; a leading - reverses (sort=-final)")
    limit: int | None = knob(None, "maximum number of lines; empty: all", gt=0)
    tree: bool = knob(False, "each run below its parent: pretrain, finetune, reward (also: --tree)")


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
    trials: int = knob(50, "total number of trials, including those of an interrupted sweep", gt=0)
    minutes: float | None = knob(None, "minutes after which no trial starts; empty: no limit", gt=0)
    seeds: int = knob(3, "seeds of each trial: seed, seed + 1, ...; a pruned one has fewer", gt=0)
    jobs: int = knob(1, "parallel trials, each in a process with one thread", gt=0, le=1_024)
    score: str = knob(
        "last",
        "score of a trial: the last evaluation, the best, or the mean of all (favours fast learners)",
        choices=("last", "best", "mean"),
    )
    pruning: bool = knob(True, "prune trials that fall below the median of earlier trials")
    overwrite: bool = knob(False, "replace an existing tuned file")
    trust: bool = knob(False, TRUST)


@dataclass
class RerunOptions:
    trust: bool = knob(False, TRUST)


def read(cls: type, words: Sequence[str]) -> dict[str, Any]:
    """Parse the options of `cls`: the values given, else defaults."""
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
    """Check that every key is given once; the first of two would not be checked."""
    before: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.lstrip("+").partition("=")
        if equals and key in before:
            raise RequestError(f"{word}: {key} is given twice, first as {before[key]}; leave out one of the two")
        before[key] = word
    return words


def matching(names: str) -> Callable[[str], bool]:
    """Whether a value matches a comma list, in which * matches anything; case-insensitive."""
    patterns = [name.strip().lower() for name in names.split(",") if name.strip()]
    return lambda value: any(fnmatchcase(value.lower(), pattern) for pattern in patterns)


def age(since: str) -> float:
    """Age in seconds: since a day or time (2026-11-20, 2026-11-20T14:00), or of a duration (12h)."""
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
    """The positional argument, if the first word is none of `keys` (a folder's name may contain `=`), and the other
    words."""
    if words and words[0].partition("=")[0] not in keys:
        return words[0], list(words[1:])
    return None, list(words)
