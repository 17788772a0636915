"""`compare RUN ...`: agents over seeds, with intervals, and a sentence on whether a difference is significant."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rlgym.analysis import statistics
from rlgym.analysis.scores import (
    Row,
    ScoredRun,
    differences,
    find_runs,
    grouped,
    metric_of,
    normalized,
    one_of_each,
    read_run,
    scales,
    score,
    split_by,
)
from rlgym.analysis.statistics import Array, Interval, Statistic
from rlgym.common.atomic_io import to_json, write_atomic
from rlgym.common.table import markdown
from rlgym.config.options import age, matching
from rlgym.errors import RequestError
from rlgym.run_folder.folder import is_run
from rlgym.run_folder.manifest import now
from rlgym.run_folder.monitor import Monitor

FEW = 5
"""Below this many seeds a bootstrap interval is markedly too narrow."""
SHOWN = 6
"""At most this many environments are listed by name."""


@dataclass
class Pair:
    """Two agents, compared on their common environments."""

    a: str
    b: str
    envs: list[str]
    seeds: list[tuple[int, int]]
    improvement: Interval
    """Probability that a run of `a` beats one of `b`."""
    p: float
    """p-value of the permutation test, adjusted for the number of pairs."""
    least: float
    """The smallest p-value possible with this number of seeds."""
    needed: int
    """Seeds per agent and environment needed to detect a difference."""


def compare(words: Sequence[str], options: dict[str, Any]) -> Path:
    """Compare the runs that `words` name: write comparison.md, comparison.json, curves.png and summary.png, print the
    first, and return their folder."""
    notes: list[str] = []
    runs = chosen([read_run(run) for run in find_runs(words)], options)
    split_by(runs, [key for key in options["by"].split(",") if key])
    metric = metric_of(runs, options["metric"], notes.append)
    kept = one_of_each(runs, options["unfinished"], notes.append)
    if not kept:
        raise RequestError(
            f"none of {len(runs)} runs is finished; unfinished=true scores what they reached, where they reached any"
        )
    differences(kept, notes.append)
    scored = score(kept, metric.tag, options["score"], options["at"], notes.append)
    if not scored:
        raise RequestError(f"none of {len(kept)} runs has {metric.tag}; metric=TAG names another of metrics.jsonl")
    scored.sort(key=lambda run: (run.env, run.agent, run.seed))
    scale, units = scales(scored, options["scores"], metric)
    rows = [environment_row(group, scale[group[0].env]) for group in grouped(scored, _place).values()]
    overall = across(scored, scale, notes.append)
    pairs = compare_pairs(scored, metric.lower)
    few = min(row.seeds for row in rows)
    if few == 1:
        alone = ", ".join(f"{row.agent} on {row.env}" for row in rows if row.seeds == 1)
        notes.append(f"one seed says nothing about spread, so there is no interval: {alone}")
    elif few < FEW:
        notes.append(f"some have only {few} seeds: bootstrap intervals of fewer than {FEW} are too narrow")
    text = report(scored, metric, units, rows, overall, pairs, notes)

    folder = Path(options["out"] or f"runs/compare_{time.strftime('%Y-%m-%d_%H-%M-%S')}").expanduser()
    if is_run(folder):
        raise RequestError(f"out={folder}: that is a run's folder; choose another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "comparison.md", text)
        write_atomic(folder / "comparison.json", to_json(_record(scored, metric, scale, rows, overall, pairs, notes)))
    except OSError as error:
        raise RequestError(f"out={folder}: cannot be written ({error.strerror}); choose another") from None
    from rlgym.analysis.plots import curves, summary  # matplotlib takes a second to import

    pictures = [summary(overall or rows, folder / "summary.png")]
    if any(len(run.curve[0]) > 1 for run in scored):
        pictures.append(curves(scored, metric.tag, folder / "curves.png"))
    print(text)
    names = ", ".join(["comparison.md", "comparison.json", *(picture.name for picture in pictures)])
    print(f"written to {folder}: {names}")
    return folder


def chosen(runs: Sequence[ScoredRun], options: dict[str, Any]) -> list[ScoredRun]:
    """Select the runs that match `agent`, `env` and `since`."""
    oldest = age(options["since"]) if options["since"] else math.inf
    kept = [run for run in runs if run.age <= oldest]
    for key in ("agent", "env"):
        if options[key]:
            fits = matching(options[key])
            kept = [run for run in kept if fits(getattr(run, key))]
    if not kept:
        given = " ".join(f"{key}={options[key]}" for key in ("agent", "env", "since") if options[key])
        raise RequestError(f"{given}: fits none of {len(runs)} runs")
    return kept


def _place(run: ScoredRun) -> tuple[str, str]:
    return run.env, run.agent


# ---- estimates


def environment_row(runs: Sequence[ScoredRun], scale: tuple[float, float]) -> Row:
    """Summarise one agent on one environment, in the environment's own units except for the gap."""
    raw = np.array([[run.score] for run in runs])
    unit = np.array([[normalized(run.score, scale)] for run in runs])
    values = {
        "IQM": estimate(statistics.iqm, raw),
        "median": estimate(statistics.seed_median, raw),
        "mean": estimate(statistics.mean, raw),
        "optimality gap": estimate(statistics.optimality_gap, unit),
    }
    low, high = min(run.steps for run in runs), max(run.steps for run in runs)
    steps = f"{low:,}" if low == high else f"{low:,}-{high:,}"
    return Row(runs[0].env, runs[0].agent, len(runs), steps, values)


def across(scored: Sequence[ScoredRun], scale: dict[str, tuple[float, float]], say: Callable[[str], None]) -> list[Row]:
    """Summarise each agent over the common environments in normalised scores; empty for fewer than 2 environments."""
    agents = grouped(scored, lambda run: run.agent)
    common = [env for env in scale if all(env in {run.env for run in runs} for runs in agents.values())]
    if len(common) < 2:
        if len(scale) > 1:
            say("no table over environments: there are not two that all agents have")
        return []
    if len(common) < len(scale):
        say(f"the table over environments is of the {len(common)} that all agents have: {', '.join(common)}")
    rows = []
    for agent, runs in agents.items():
        by_env = grouped([run for run in runs if run.env in common], lambda run: run.env)
        seeds = min(len(own) for own in by_env.values())
        if seeds < max(len(own) for own in by_env.values()):
            say(f"the table over environments takes {seeds} seeds of {agent} on each, the first: some have more")
        scores = np.array([[normalized(run.score, scale[env]) for run in by_env[env][:seeds]] for env in common]).T
        values = {
            "IQM": estimate(statistics.iqm, scores),
            "median": estimate(statistics.median, scores),
            "mean": estimate(statistics.mean, scores),
            "optimality gap": estimate(statistics.optimality_gap, scores),
        }
        rows.append(Row(f"{len(common)} environments", agent, seeds, "", values))
    return rows


def estimate(statistic: Statistic, scores: Array) -> Interval:
    return float(statistic(scores)), *statistics.interval(statistic, scores)


def compare_pairs(scored: Sequence[ScoredRun], lower: bool) -> list[Pair]:
    """All pairs of agents that share an environment, the better one first."""
    agents = {
        agent: {env: np.array([run.score for run in own]) for env, own in grouped(runs, lambda run: run.env).items()}
        for agent, runs in grouped(scored, lambda run: run.agent).items()
    }
    shared = [
        (a, b, envs) for a, b in combinations(agents, 2) if (envs := [env for env in agents[a] if env in agents[b]])
    ]
    pairs = []
    for a, b, envs in shared:
        sign = -1.0 if lower else 1.0
        if statistics.probability_of_improvement(*([sign * agents[c][env] for env in envs] for c in (a, b))) < 0.5:
            a, b = b, a
        x, y = ([sign * agents[c][env] for env in envs] for c in (a, b))
        seeds = [(len(own), len(other)) for own, other in zip(x, y, strict=True)]
        improvement = (statistics.probability_of_improvement(x, y), *statistics.improvement_interval(x, y))
        least = min(1.0, len(shared) * statistics.least_p(seeds))
        needed = statistics.seeds_needed(len(envs), comparisons=len(shared))
        pairs.append(Pair(a, b, envs, seeds, improvement, statistics.permutation_p(x, y), least, needed))
    for pair, p in zip(pairs, statistics.holm([pair.p for pair in pairs]), strict=True):
        pair.p = p
    return pairs


def verdict(pair: Pair) -> str:
    """One sentence: whether the difference is significant at 95 %, else how many seeds would be needed."""
    where = ", ".join(pair.envs) if len(pair.envs) <= SHOWN else f"{len(pair.envs)} environments"
    first, second = (_range([seeds[k] for seeds in pair.seeds]) for k in (0, 1))
    seeds = f"{first} against {second} seeds" + (" each" if len(pair.envs) > 1 else "")
    chance = f"a run of {pair.a} beats one of {pair.b} with probability {_shown(pair.improvement)}"
    if pair.p <= 1 - statistics.LEVEL:
        return f"{pair.a} is better than {pair.b} on {where}: significant at 95 % (p {_p(pair.p)}, {seeds}); {chance}."
    line = f"{pair.a} and {pair.b} on {where}: no significant difference at 95 % (p {_p(pair.p)}, {seeds}); {chance}."
    if pair.least > 1 - statistics.LEVEL:
        line += f" With so few seeds no difference is significant: it takes {pair.needed} of each."
    return line


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"


def _p(p: float) -> str:
    return f"= {p:.2g}" if p >= 0.001 else "< 0.001"


# ---- the report


def report(
    scored: Sequence[ScoredRun],
    metric: Monitor,
    units: str,
    rows: Sequence[Row],
    overall: Sequence[Row],
    pairs: Sequence[Pair],
    notes: Sequence[str],
) -> str:
    """The comparison as Markdown, readable in a terminal as well."""
    sources = ", or ".join(dict.fromkeys(run.source for run in scored))
    better = "lower" if metric.lower else "higher"
    lines = [
        f"Score: {sources}; {better} is better. One value a run, {len(scored)} runs.",
        f"In brackets: 95 % intervals, stratified bootstrap over seeds, {statistics.REPETITIONS:,} repetitions.",
        f"Optimality gap, in units in which 0 and 1 are: {units}.",
        "",
        *(f"- note: {note}" for note in notes),
        *([""] if notes else []),
    ]
    lines += ["## Each environment", "", *markdown([_cells(row) for row in rows], right=4), ""]
    if overall:
        cells = [{key: text for key, text in _cells(row).items() if key not in ("env", "steps")} for row in overall]
        lines += [f"## Over {overall[0].env}, in those units", "", *markdown(cells, right=2), ""]
    if pairs:
        cells = [
            {
                "A": pair.a,
                "B": pair.b,
                "environments": str(len(pair.envs)),
                "P(A beats B)": _shown(pair.improvement),
                "p": _p(pair.p).removeprefix("= "),
                "significant at 95 %": "yes" if pair.p <= 1 - statistics.LEVEL else "no",
            }
            for pair in pairs
        ]
        adjusted = f", adjusted for {len(pairs)} pairs (Holm)" if len(pairs) > 1 else ""
        lines += ["## Pairs", "", *markdown(cells, right=3), ""]
        lines += [f"p: exact permutation test, stratified by environment{adjusted}.", ""]
        lines += [*(f"- {verdict(pair)}" for pair in pairs), ""]
    return "\n".join(lines)


def _cells(row: Row) -> dict[str, str]:
    head = {"env": row.env, "agent": row.agent, "seeds": str(row.seeds), "steps": row.steps}
    return head | {name: _shown(value) for name, value in row.values.items()}


def _shown(value: Interval) -> str:
    estimate, low, high = (_number(number) for number in value)
    return estimate if math.isnan(value[1]) else f"{estimate} [{low}, {high}]"


def _number(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _record(
    scored: Sequence[ScoredRun],
    metric: Monitor,
    scale: dict[str, tuple[float, float]],
    rows: Sequence[Row],
    overall: Sequence[Row],
    pairs: Sequence[Pair],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The contents of comparison.md as numbers, and every run's score."""
    keys = ("agent", "env", "seed", "steps", "status", "score", "source")
    return {
        "metric": metric.tag,
        "lower_is_better": metric.lower,
        "notes": list(notes),
        "scales": scale,
        "runs": [{"dir": str(run.run.dir)} | {key: getattr(run, key) for key in keys} for run in scored],
        "environments": [vars(row) for row in rows],
        "over_environments": [vars(row) for row in overall],
        "pairs": [vars(pair) | {"real": pair.p <= 1 - statistics.LEVEL, "verdict": verdict(pair)} for pair in pairs],
        "written": now(),
    }
