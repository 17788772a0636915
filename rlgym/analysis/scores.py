"""From run folders to the scores that `compare` uses: which runs count, their metric and its units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlgym.analysis.statistics import Interval
from rlgym.common.atomic_io import read_json, read_rows, read_yaml
from rlgym.common.suggest import did_you_mean
from rlgym.config.parser import flattened
from rlgym.config.schema import ROOTS
from rlgym.errors import RequestError
from rlgym.run_folder.folder import Run, find_run, is_run, row_of
from rlgym.run_folder.monitor import Monitor, lower_is_better, monitor_of

METRIC = {"train": "eval/mean_reward", "pretrain": "validation/loss"}
"""Metrics to score runs by that monitor different metrics, or whose manifests name none."""
ROLLOUT = "rollout/ep_rew_mean"

SAME = (
    *("seed", "run", "device", "compile", "threads", "display", "log", "checkpoint", "evaluate", "env.backend"),
    *("schedule_steps", "schedule_tokens"),
)
"""Keys of a config that do not define the experiment. Schedule budgets are among them, since a resume writes them into
the config."""
BUDGETS = ("steps", "tokens", "updates", "minutes")
NEAR = 1.1
"""Budgets are equal up to this ratio: a run ends with the rollout in which its budget is spent."""

KNOWN = {
    "CartPole-v1": (22.2, 475.0),
    "Acrobot-v1": (-497.4, -100.0),
    "MountainCar-v0": (-200.0, -110.0),
    "MountainCarContinuous-v0": (-33.3, 90.0),
    "Pendulum-v1": (-1240.9, -160.0),
    "LunarLander-v3": (-184.4, 200.0),
    "LunarLanderContinuous-v3": (-210.3, 200.0),
}
"""Environment -> the mean return of uniformly random actions (100 to 1,000 episodes, Gymnasium 1.4.0), and the return
that counts as solved: Gymnasium's `reward_threshold`, and what good agents reach on Pendulum-v1, which has none."""


@dataclass
class ScoredRun:
    """A run as `compare` sees it."""

    run: Run
    root: str
    agent: str
    """The agent's name; with `by`, including the values that distinguish its runs."""
    env: str
    seed: int
    status: str
    steps: int
    age: float
    config: dict[str, Any]
    """Dotted key -> value."""
    monitor: Monitor
    score: float = math.nan
    source: str = ""
    """Description of the score's source."""
    curve: tuple[list[int], list[float]] = field(default_factory=lambda: ([], []))
    """Steps and values of the evaluations while training."""

    @property
    def name(self) -> str:
        return self.run.name


# ---- which runs


def find_runs(words: Sequence[str], root: Path = Path("runs")) -> list[Run]:
    """Find runs by run folders, folders of runs, globs, or parts of names under `root`; without words, all of
    `root`."""
    found: dict[Path, Run] = {}
    if not words and not root.is_dir():
        raise RequestError(f"no runs under {root}; train some first")
    for word in words or [str(root)]:
        for run in _named(word, root):
            found.setdefault(run.dir.resolve(), run)
    if not found:
        raise RequestError(f"no runs under {' '.join(words) or root}; train some first")
    return list(found.values())


def _named(word: str, root: Path) -> list[Run]:
    path = Path(word).expanduser()
    if is_run(path):
        return [Run(path)]
    if path.is_dir():
        return [Run(folder) for folder in sorted(path.iterdir()) if is_run(folder)]
    if any(mark in word for mark in "*?["):
        base = Path(path.anchor) if path.is_absolute() else Path()
        matches = [Run(folder) for folder in sorted(base.glob(str(path.relative_to(path.anchor)))) if is_run(folder)]
        if not matches:
            raise RequestError(f"{word}: fits no run folder")
        return matches
    names = sorted(folder for folder in root.iterdir() if is_run(folder)) if root.is_dir() else []
    if word != "last" and (part := [Run(folder) for folder in names if word.lower() in folder.name.lower()]):
        return part  # several matches are fine here
    return [find_run(word, root)]


def read_run(run: Run) -> ScoredRun:
    """Read a run's folder; its score follows once the metric common to all runs is known."""
    row, manifest = row_of(run), run.manifest
    try:
        loaded = read_yaml(run.config_path)
    except (OSError, ValueError):
        loaded = None
    config = dict(flattened(loaded)) if isinstance(loaded, dict) else {}
    seed = row["seed"] if isinstance(row["seed"], int) else -1
    steps = row["steps"] if isinstance(row["steps"], int) else 0
    agent, env = str(row["agent"] or "?"), str(row["env"] or "?")
    root = str(manifest.get("root") or ("pretrain" if "objective.name" in config else "train"))
    usual = METRIC.get(root) or str(row["metric"])
    monitor = monitor_of(manifest, {}, {}) or Monitor(usual, lower_is_better(usual))
    return ScoredRun(run, root, agent, env, seed, str(row["status"]), steps, row["age_s"], config, monitor)


@dataclass
class Row:
    """Summary of one agent on one environment, or on all of them in normalised scores."""

    env: str
    agent: str
    seeds: int
    steps: str
    values: dict[str, Interval]


def split_by(runs: Sequence[ScoredRun], keys: Sequence[str]) -> None:
    """Distinguish runs of one agent by their values of `keys`."""
    every = {key for run in runs for key in run.config}
    for key in keys:
        if key not in every:
            raise RequestError(f"by={key}: no run has such a key{did_you_mean(key, every, 'by=')}")
    for run in runs:
        for key in keys:
            if key in run.config:
                run.agent += f" {key.rsplit('.', 1)[-1]}={_text(run.config[key])}"


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def one_of_each(runs: Sequence[ScoredRun], unfinished: bool, say: Callable[[str], None]) -> list[ScoredRun]:
    """The finished runs, one per seed; reports what is left out, and why."""
    kept = [run for run in runs if run.status == "finished" or (unfinished and run.steps > 0)]
    others = [run for run in runs if run not in kept]
    if others:
        shown = ", ".join(f"{run.name} ({run.status})" for run in others[:3]) + (", ..." if len(others) > 3 else "")
        remedy = "" if unfinished else "; a failure is a result too: unfinished=true scores what they reached"
        say(f"{_count(len(others), 'run')} not finished and left out: {shown}{remedy}")
    if unfinished and (early := [run for run in kept if run.status != "finished"]):
        say(
            f"{_count(len(early), 'run')} not finished, scored by what they reached: {', '.join(r.name for r in early)}"
        )
    newest: dict[tuple[str, str, int], ScoredRun] = {}
    for run in sorted(kept, key=lambda run: -run.age):
        newest[run.agent, run.env, run.seed] = run
    twice = [run for run in kept if newest[run.agent, run.env, run.seed] is not run]
    if twice:
        seeds = ", ".join(dict.fromkeys(f"{run.agent} on {run.env} seed {run.seed}" for run in twice))
        say(f"{_count(len(twice), 'older run')} of a seed that ran again left out, one seed counts once: {seeds}")
    return list(newest.values())


def differences(runs: Sequence[ScoredRun], say: Callable[[str], None]) -> None:
    """Report runs of one name that were not the same experiment, and differing budgets."""
    for (agent, env), group in grouped(runs, lambda run: (run.agent, run.env)).items():
        keys = {key for run in group for key in run.config}
        differing = sorted(
            key
            for key in keys
            if not key.startswith(tuple(f"{same}." for same in SAME)) and key not in (*SAME, *BUDGETS)
            if len({repr(run.config.get(key)) for run in group}) > 1
        )
        if differing:
            shown = ",".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
            say(f"the runs of {agent} on {env} differ in {shown}: by={','.join(differing[:3])} sets them apart")
    for env, group in grouped(runs, lambda run: run.env).items():
        if min(run.steps for run in group) * NEAR < max(run.steps for run in group):
            least = min(run.steps for run in group)
            ranges = {}
            for agent, own in grouped(group, lambda run: run.agent).items():
                low, high = min(run.steps for run in own), max(run.steps for run in own)
                ranges[agent] = f"{agent} {low:,}" + (f"-{high:,}" if high > low else "")
            say(
                f"budgets on {env} differ ({', '.join(ranges.values())}), and scores are of each run's end: "
                f"at={least} compares at equal steps"
            )


def grouped(runs: Iterable[ScoredRun], key: Callable[[ScoredRun], Any]) -> dict[Any, list[ScoredRun]]:
    found: dict[Any, list[ScoredRun]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


# ---- what is scored


def metric_of(runs: Sequence[ScoredRun], wanted: str, say: Callable[[str], None]) -> Monitor:
    """The metric to compare runs by: the one they all monitor. RequestError where no metric is common."""
    roots = {run.root for run in runs}
    if len(roots) > 1:
        mixed = " and of ".join(root for root in ROOTS if root in roots)
        raise RequestError(
            f"these are runs of {mixed}, which nothing compares; name some, or choose with agent= and env="
        )
    (root,) = roots
    monitors = {run.monitor.tag: run.monitor for run in runs}
    tag = wanted or next(iter(monitors))
    if not wanted and len(monitors) > 1:
        if root not in METRIC:
            raise RequestError(
                f"these runs are monitored by {' and '.join(sorted(monitors))}, which nothing compares; choose one "
                "with agent=, or name a metric that all have with metric="
            )
        tag = METRIC[root]
        say(f"the runs are monitored by {' and '.join(sorted(monitors))}: scored by {tag}")
    taught = {str(run.config.get("objective.name", run.config.get("method.name"))) for run in runs}
    if root != "train" and len(taught) > 1 and tag.endswith("loss"):
        raise RequestError(f"{tag} of {' and '.join(sorted(taught))} is not of the same thing; choose one with agent=")
    if root == "pretrain" and not wanted and taught == {"next_token"}:
        tokenizers = {repr({k: v for k, v in run.config.items() if k.startswith("tokenizer.")}) for run in runs}
        if len(tokenizers) > 1:
            tag = "validation/bits_per_byte"
            say("the tokenizers differ, so a loss a token compares nothing: scored by bits per byte")
    return monitors.get(tag) or Monitor(tag, lower_is_better(tag))


def score(
    runs: Sequence[ScoredRun], metric: str, how: str, at: int | None, say: Callable[[str], None]
) -> list[ScoredRun]:
    """Fill in `score`, `source` and `curve` from the best source that all runs have; runs without one are left out.
    `how`: evaluate (the result of `evaluate RUN`), training (the last evaluation while training), rollout, or auto: the
    first of these that every run has. `at`: use evaluations up to that step.
    """
    curves = {run.name: _curves(run, metric) for run in runs}
    sources: dict[str, Callable[[ScoredRun], tuple[float, str] | None]] = {
        "evaluate": lambda run: _evaluated(run, metric),
        "training": lambda run: _last(curves[run.name][0], at, f"{metric} of the last evaluation while training"),
        "rollout": lambda run: _last(curves[run.name][1], at, f"{ROLLOUT}, the return while training"),
    }
    if at is not None:
        if how == "evaluate":
            raise RequestError(f"at={at}: `evaluate RUN` is about one checkpoint; score=training has scores over steps")
        del sources["evaluate"]
    if how != "auto":
        sources = {how: sources[how]}
    found = {name: [source(run) for run in runs] for name, source in sources.items()}
    name = next((name for name, values in found.items() if None not in values), "")
    if not name:  # no source is common to all: take the most frequent one
        name = max(found, key=lambda name: sum(value is not None for value in found[name]))
    kept = []
    for run, value in zip(runs, found[name], strict=True):
        if value is not None:
            run.score, run.source = value
            run.curve = curves[run.name][0] if curves[run.name][0][0] else curves[run.name][1]
            kept.append(run)
    lacking = [run for run in runs if run not in kept]
    if lacking:
        shown = ", ".join(run.name for run in lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        say(f"{_count(len(lacking), 'run')} without {metric if name != 'rollout' else ROLLOUT} left out: {shown}")
    some = sum(value is not None for value in found.get("evaluate", []))
    if name != "evaluate" and some:
        say(f"`evaluate RUN` has evaluated {some} of {len(runs)} runs: evaluate them all to compare by that")
    if at is not None and (short := [run for run in kept if run.steps * NEAR < at]):
        say(f"at={at}: {_count(len(short), 'run')} ended earlier, as {short[0].name} at step {short[0].steps:,}")
    return kept


def _curves(run: ScoredRun, metric: str) -> tuple[tuple[list[int], list[float]], tuple[list[int], list[float]]]:
    """(steps, values) of the metric, and of the returns while training."""
    rows = read_rows(run.run.dir / "metrics.jsonl")

    def curve(tag: str) -> tuple[list[int], list[float]]:
        points = {row["step"]: float(row[tag]) for row in rows if type(row.get(tag)) in (int, float)}
        return list(points), list(points.values())

    return curve(metric), curve(ROLLOUT) if metric == METRIC["train"] else ([], [])


def _last(curve: tuple[list[int], list[float]], at: int | None, words: str) -> tuple[float, str] | None:
    reached = [value for step, value in zip(*curve, strict=True) if at is None or step <= at]
    return (reached[-1], words + (f" up to step {at:,}" if at is not None else "")) if reached else None


def _evaluated(run: ScoredRun, metric: str) -> tuple[float, str] | None:
    """The latest result of `evaluate RUN`; for text, the one on held-out data."""
    name = metric.rsplit("/", 1)[-1]
    for path in sorted((run.run.dir / "evaluations").glob("*.json"), reverse=True):
        if path.name.startswith("step_"):
            continue
        try:
            record = read_json(path)
        except (OSError, ValueError):
            continue
        if type(record.get(name)) in (int, float) and record.get("data", "held_out") == "held_out":
            episodes = record.get("episodes")
            over = f", {len(episodes)} fresh episodes" if isinstance(episodes, list) else ""
            return float(record[name]), f"{name} of `evaluate RUN`, checkpoint {record.get('checkpoint', '?')}{over}"
    return None


# ---- in which units


def scales(runs: Sequence[ScoredRun], given: str, metric: Monitor) -> tuple[dict[str, tuple[float, float]], str]:
    """Environment -> (score 0, score 1) in its own units, and a description of both."""
    envs = list(dict.fromkeys(run.env for run in runs))
    own = _given(given, envs)
    known = KNOWN if metric.tag == METRIC["train"] else {}
    found: dict[str, tuple[float, float]] = {}
    words = []
    for env in envs:
        values = [run.score for run in runs if run.env == env]
        worst, best = (max(values), min(values)) if metric.lower else (min(values), max(values))
        zero, one = own.get(env) or known.get(env) or (worst, best)
        found[env] = zero, one
        origin = "given" if env in own else "random and solved" if env in known else "worst and best of these runs"
        words.append(f"{env} {zero:g} and {one:g} ({origin})")
    return found, "; ".join(words)


def normalized(value: float, scale: tuple[float, float]) -> float:
    """Normalise to 0 at the scale's first end and 1 at its second; 1 where both are equal."""
    zero, one = scale
    return (value - zero) / (one - zero) if one != zero else 1.0


def _given(text: str, envs: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Parse ENV:LOW:HIGH,ENV:LOW:HIGH; an id may contain a colon."""
    found = {}
    for part in filter(None, text.split(",")):
        try:
            env, zero, one = part.rsplit(":", 2)
            ends = float(zero), float(one)
        except ValueError:
            raise RequestError(f"scores={part}: must be ENV:LOW:HIGH, like CartPole-v1:22:475") from None
        if not all(map(math.isfinite, ends)) or ends[0] == ends[1]:
            raise RequestError(f"scores={part}: LOW and HIGH must be two finite numbers that differ")
        if env not in envs:
            raise RequestError(f"scores={part}: no run is of {env}{did_you_mean(env, envs)}")
        found[env] = ends
    return found
