"""`sweep`: a search for better hyper-parameters by Optuna, each trial an ordinary run over several seeds.

A sweep's folder holds sweep.json (the request), study.journal (Optuna's journal, JSON lines), trials.json (the results)
and a run folder for each trial and seed. A trial's score is the mean over seeds of the agent's monitored evaluation
metric.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgym.common.atomic_io import read_bounded, read_json, to_json, write_atomic
from rlgym.common.pool import Died, Signals, in_processes
from rlgym.common.table import print_table, shown
from rlgym.config.compose import compose, revise
from rlgym.config.effect import no_effect, without_effect
from rlgym.config.groups import GROUPS
from rlgym.config.io import vouch
from rlgym.config.options import SweepOptions
from rlgym.config.overrides import parse
from rlgym.config.parser import build, to_dict
from rlgym.config.tuned import write_tuned
from rlgym.errors import RequestError, TrainingError
from rlgym.run_folder.folder import path_safe
from rlgym.run_folder.lock import locked
from rlgym.run_folder.manifest import alive, now, process
from rlgym.run_folder.records import Process, expect, fits
from rlgym.sweeps.multirun import STOPPED, side_by_side
from rlgym.sweeps.search_space import Axis, axis, default_space, hint_of, split, value_at

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
"""Optuna's journal in a sweep's folder."""
STARTUP = 8
"""Random trials before Optuna's TPE starts; fewer in a short sweep."""
COMPARED = 5
"""Finished trials required before pruning."""
EVALUATIONS = 10
"""Evaluations per run, for pruning, unless evaluate.every is given."""
LEAN = {"log.histograms": "false", "checkpoint.every": "0", "checkpoint.keep": "1", "display": "quiet"}
"""Defaults of every trial: there are many runs, and few will be inspected."""
WARM = 2
"""Evaluations required before a trial may be pruned."""
MANY = 100_000
"""Offset between seeds in Optuna's step numbers; more than the evaluations of any run."""
JOURNAL_BYTES = 1 << 28
SHOWN = 10
"""Rows of the final table."""


@dataclass
class Request:
    """A sweep's request: sweep.json."""

    command: list[str]
    words: list[str]
    """Arguments of every trial, as given."""
    lean: list[str]
    """Further arguments of every trial, not written to a tuned file."""
    space: dict[str, str]
    """Key -> its range, as typed."""
    agent: str
    env: str
    seed: int
    seeds: int
    score: str
    pruning: bool
    trials: int
    minutes: float | None
    jobs: int
    config_dir: str | None
    better: str = "max"
    """Direction of the agent's monitored metric, which scores trials: max or min."""
    process: Process = field(default_factory=process)
    start: str = field(default_factory=now)


def search(words: Sequence[str], options: dict[str, Any], command: list[str], config_dir: str | None) -> int:
    """Start a sweep from `words`; returns its exit code."""
    require_optuna()
    fixed, searched = split(words)
    base = compose(fixed, "train", config_dir)
    given = parse(fixed, GROUPS["train"])
    chosen = given.choices
    recipe = "experiment" in chosen
    agent = base.agent.name if recipe else chosen.get("agent", base.agent.name)
    env = base.env.id if recipe else chosen.get("env", base.env.id)
    space = searched or default_space(agent, config_dir)
    axes = check_space(space, base)
    for key, text in searched.items():
        if (found := without_effect(base, key)) and found[0] not in space:
            raise no_effect(key, text, found[1])
    from rlgym.config.registry import learner_class
    from rlgym.training.train import check_request

    check_request(base)
    lean = [f"{key}={value}" for key, value in LEAN.items() if key not in given.values]
    if hasattr(base.agent, "save_replay") and "agent.save_replay" not in given.values:
        lean.append("agent.save_replay=false")
    if "evaluate.every" not in given.values:
        lean.append(f"evaluate.every={max(1, base.steps // EVALUATIONS)}")
    own = [word for word in fixed if word.lstrip("+").split("=", 1)[0] not in ("run.dir", "run.name", "seed")]
    request = Request(
        command=command,
        words=own,
        lean=lean,
        space=space,
        agent=agent,
        env=env,
        seed=base.seed,
        config_dir=None if config_dir is None else str(Path(config_dir).resolve()),
        better=learner_class(base).monitor[1],
        **{key: options[key] for key in ("seeds", "score", "pruning", "trials", "minutes", "jobs")},
    )
    folder = new_folder(base.run.dir, f"sweep_{base.run.name or base.label}")
    write_atomic(folder / "sweep.json", to_json(asdict(request)))
    study = open_study(folder)
    points = {a.key: a.point(value_at(to_dict(base), a.key)) for a in axes}
    if None not in points.values():
        study.enqueue_trial(points, user_attrs={"baseline": True})
    _say(f"sweep of {agent} on {env}: {folder}")
    for key, text in space.items():
        _say(f"  {key}={text}")
    with locked(folder / JOURNAL, folder):
        return go_on(folder, request, options["overwrite"], True, options["trust"])


def resume(folder: Path, words: Mapping[str, Any], options: dict[str, Any]) -> int:
    """Continue the sweep in `folder`; `words`: given options, some of which may change."""
    require_optuna()
    request = read_request(folder)
    for key in words:
        if key not in ("trials", "minutes", "jobs", "overwrite", "trust"):
            raise RequestError(f"{key}={words[key]}: a sweep goes on as it began, but for trials, minutes and jobs")
    check_request_of(folder, request, options["trust"])
    working = request.process
    here = working.get("host") == process()["host"]
    if working != process() and here and alive(working.get("pid", 0), working.get("pid_start")):
        raise RequestError(f"{folder} is being worked on by process {working['pid']}; stop that one first")
    with locked(folder / JOURNAL, folder):
        return _resume(folder, request, words, options)


def _resume(folder: Path, request: Request, words: Mapping[str, Any], options: dict[str, Any]) -> int:
    for key in ("trials", "minutes", "jobs"):
        if key in words:
            setattr(request, key, options[key])
    request.process = process()
    write_atomic(folder / "sweep.json", to_json(asdict(request)))
    study = open_study(folder)
    again = interrupted(study)
    for trial in again:
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=_state("FAIL"))
        study.enqueue_trial(trial.params, user_attrs={"again": trial.number, **_baseline(trial)})
    done = len(ended(study))
    _say(f"sweep of {request.agent} on {request.env}: {folder}, {done} of {request.trials} trials done")
    return go_on(folder, request, options["overwrite"], options["trust"], options["trust"])


def go_on(folder: Path, request: Request, overwrite: bool, trust: bool, runs: bool) -> int:
    """Run trials until the budget is spent or a signal comes, and report the results. `trust`: whether request and
    journal come from the user or from a trusted folder. `runs`: whether runs named by the request, such as an opponent,
    are trusted, too."""
    own_study.cache_clear()  # from an earlier sweep in the same folder
    signals = Signals()
    until = math.inf if request.minutes is None else time.monotonic() + 60 * request.minutes
    code = 0
    left = request.trials - len(ended(open_study(folder)))

    def tasks() -> Iterator[tuple[str, int, bool, bool]]:
        for number in range(left):
            if time.monotonic() >= until or code in STOPPED:
                return
            yield str(folder.resolve()), number, trust, runs

    if request.jobs > 1:
        answers = in_processes(work, tasks(), request.jobs, signals)
    else:
        answers = ((task, work(task)) for task in tasks())
    for _, answer in answers:
        if isinstance(answer, Died):
            _say(f"a trial was lost: {answer}")
            code = max(code, 1)
            continue
        _say(answer["line"])
        code = max(code, answer["code"])
    if signals.number is not None:
        code = 128 + signals.number
    study = open_study(folder)
    rows = table(study, request)
    write_atomic(folder / "trials.json", to_json({"trials": rows, "request": asdict(request)}))
    if code in STOPPED:
        _say(f"stopped; go on with: python -m rlgym sweep {folder}")
        return code
    print_table([row | {"words": " ".join(row["words"])} for row in rows[:SHOWN]], ("trial", "score", "state", "words"))
    if time.monotonic() >= until and len(ended(study)) < request.trials:
        print(f"{request.minutes:g} minutes are spent after {len(ended(study))} trials")
    scored = [row for row in rows if row["state"] == "complete"]
    if not scored:
        _say(f"no trial came to its end; {folder}/trials.json says why")
        return max(code, 3)
    best = scored[0]
    print(f"best: trial {best['trial']}, {shown(best['score'])}: {' '.join(best['words'])}")
    if best["baseline"]:
        print("that is the config as it stood: nothing found was better, and no file is written")
    else:
        found = f"{shown(best['score'])} over {request.seeds} seeds, best of {len(ended(study))} trials"
        comment = f"found by `rlgym sweep`: {found} ({folder.name})"
        words = [*request.words, *best["words"]]
        lines = write_tuned(request.agent, request.env, words, request.config_dir, overwrite, comment, trust)
        print(*lines, sep="\n")
        print("the best of many is part luck: evaluate it on seeds that the sweep has not seen, as seed=range(101,106)")
    return code


# ---- one trial


def work(task: tuple[str, int, bool, bool]) -> dict[str, Any]:
    """Run one trial, given the sweep's folder, the trial's number and trust (see `go_on`). Returns a `line` for the
    user and an exit `code`."""
    import optuna

    folder, number, trust, runs = Path(task[0]), *task[1:]
    if runs:
        vouch(to_dict(base_of(folder, trust)))
    request = read_request(folder)
    kept = own_study(folder)
    study = kept[0] if kept else open_study(folder, number)
    kept[:] = [study]
    axes = axes_of(folder, trust)
    began = time.monotonic()
    trial = study.ask({a.key: a.distribution() for a in axes})
    words = [a.word(trial.params[a.key]) for a in axes]
    trial.set_user_attr("words", words)
    title, given = f"trial {trial.number + 1}: ", f"  {' '.join(words)}"
    values: list[float] = []
    if (twin := same_words(study, words)) is not None:
        study.tell(trial, twin.value, state=twin.state)  # equal values on equal seeds give equal scores
        return {"line": f"{title}as trial {twin.number + 1}{given}", "code": 0}
    try:
        for k in range(request.seeds):
            run = train_seed(folder, request, trial, words, k, values, trust)
            if run.exit_code in STOPPED:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)  # not an error: it will be repeated
                return {"line": f"{title}interrupted{given}", "code": run.exit_code}
            if run.summary.get("status") == "stopped":
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return {"line": f"{title}{run.summary['reason']}{given}", "code": 0}
        if not values or not all(map(math.isfinite, values)):
            raise TrainingError("its evaluations gave no finite score")
    except KeyboardInterrupt:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return {"line": f"{title}interrupted{given}", "code": 130}
    except (RequestError, TrainingError) as error:
        said = " ".join(str(error).split())
        trial.set_user_attr("error", said)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return {"line": f"{title}failed, {said}{given}", "code": 0}
    score = sum(values) / len(values)
    study.tell(trial, score)
    return {"line": f"{title}{shown(score)}{given}  ({time.monotonic() - began:,.0f} s)", "code": 0}


def train_seed(
    folder: Path, request: Request, trial: Any, words: list[str], k: int, values: list[float], trust: bool
) -> Any:
    """Train the k-th seed of a trial and append its score to `values`; a pruned run has status stopped."""
    from rlgym.training.train import run_training

    seed = request.seed + k
    place = folder / f"trial_{trial.number + 1}_s{seed}"
    config = revise(base_of(folder, trust), [*words, f"seed={seed}", f"run.dir='{place}'"], trust, drawn=True)
    seen: list[float] = []

    def watch(step: int, value: float) -> str | None:
        """Called after every evaluation; returns a reason to stop, or None."""
        seen.append(value)
        if not math.isfinite(value):
            return None
        trial.report(value, k * MANY + len(seen))  # the same evaluation of the same seed in every trial
        behind = request.pruning and trial.should_prune()
        return f"pruned at step {step:,}, worse than the median of the trials before" if behind else None

    run = run_training(config, request.command, fail=_raise, watch=watch)
    if seen and run.summary.get("status") == "finished":
        best = min(seen) if request.better == "min" else max(seen)
        values.append({"last": seen[-1], "best": best, "mean": sum(seen) / len(seen)}[request.score])
    return run


def _raise(error: TrainingError) -> None:
    raise error


# ---- the study


@cache
def own_study(folder: Path) -> list[optuna.Study]:
    """Per-process cache of the study, so that the journal is read once."""
    return []


def open_study(folder: Path, offset: int = 0) -> optuna.Study:
    """The sweep's study; the `offset` makes processes and resumed sweeps draw different points."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    request = read_request(folder)
    journal = folder / JOURNAL
    directions = optuna.study.StudyDirection
    direction = directions.MINIMIZE if request.better == "min" else directions.MAXIMIZE
    try:
        if journal.exists():
            read_bounded(journal, JOURNAL_BYTES)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(storage=storage, study_name="sweep", direction=direction, load_if_exists=True)
        study.get_trials(deepcopy=False)
    except Exception as error:  # Optuna may raise anything for foreign lines
        said = " ".join(str(error).split())[:200]
        raise RequestError(
            f"{journal} cannot be read ({type(error).__name__}: {said}): it says what was tried"
        ) from error
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=min(STARTUP, max(2, request.trials // 3)),
        multivariate=True,
        constant_liar=request.jobs > 1,
        seed=request.seed + 1_000 * len(study.get_trials(deepcopy=False)) + offset,
    )
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=COMPARED, n_warmup_steps=WARM)
    return study


def ended(study: optuna.Study) -> list[Any]:
    """Trials that count: complete, pruned, or failed by their own error."""
    counted = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and "error" in trial.user_attrs):
            counted.append(trial)
    return counted


def interrupted(study: optuna.Study) -> list[Any]:
    """Trials interrupted by a signal or crash that are not queued again yet."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get("again") for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state.name == "RUNNING" or (trial.state.name == "FAIL" and "error" not in trial.user_attrs)
        if trial.number not in again and trial.params
    ]


def same_words(study: optuna.Study, words: list[str]) -> Any:
    """An earlier finished or pruned trial with the same arguments, or None."""
    trials = (trial for trial in ended(study) if trial.state.name != "FAIL")
    return next((trial for trial in trials if words_of(trial) == words), None)


def words_of(trial: Any) -> list[str]:
    """The trial's arguments, as recorded."""
    words = trial.user_attrs.get("words")
    return list(words) if fits(words, list[str]) else []


def table(study: optuna.Study, request: Request) -> list[dict[str, Any]]:
    """One row per trial, best first."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        state = trial.state.name.lower()
        if state == "waiting":
            continue
        rows.append(
            {
                "trial": trial.number + 1,
                "score": trial.value if state == "complete" else None,
                "state": str(trial.user_attrs.get("error", "interrupted")) if state == "fail" else state,
                "words": words_of(trial),
                "baseline": bool(trial.user_attrs.get("baseline")),
            }
        )
    sign = 1 if request.better == "min" else -1
    return sorted(rows, key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0), row["trial"]))


def _baseline(trial: Any) -> dict[str, bool]:
    return {"baseline": True} if trial.user_attrs.get("baseline") else {}


def _state(name: str) -> Any:
    import optuna

    return optuna.trial.TrialState[name]


# ---- its folder


@cache
def base_of(folder: Path, trust: bool = False) -> Any:
    """The config of every trial without the searched keys; cached, as Hydra takes half a second."""
    request = read_request(folder)
    words = [*request.words, *request.lean]
    return compose(side_by_side(words) if request.jobs > 1 else words, "train", request.config_dir, trust)


@cache
def axes_of(folder: Path, trust: bool = False) -> list[Axis]:
    return [axis(key, text, hint_of(base_of(folder, trust), key)) for key, text in read_request(folder).space.items()]


def check_request_of(folder: Path, request: Request, trust: bool) -> None:
    """RequestError if the folder's request cannot be fulfilled or would run untrusted code: a sweep and its configs may
    come from elsewhere."""
    base_of.cache_clear()  # the folder may have changed since it was last read
    axes_of.cache_clear()
    try:
        base_of(folder.resolve(), trust)
        axes_of(folder.resolve(), trust)
    except RequestError as error:
        raise RequestError(f"{folder}: {error}") from error
    for key, name in {"agent": request.agent, "env": request.env}.items():  # they determine the tuned file
        if ".." in name or Path(name).is_absolute() or not name:
            raise RequestError(f"{folder}/sweep.json: {key}={name}: must be one name")


def read_request(folder: Path) -> Request:
    """Read the request of the sweep in `folder`. RequestError if sweep.json is malformed."""
    try:
        request = Request(**expect(read_json(folder / "sweep.json"), Request))
        build(SweepOptions, {key: getattr(request, key) for key in ("trials", "minutes", "seeds", "jobs", "score")})
    except (OSError, ValueError, TypeError, RequestError) as error:
        raise RequestError(f"{folder}/sweep.json cannot be read ({error})") from error
    return request


def check_space(space: Mapping[str, str], base: Any) -> list[Axis]:
    """The axes; checks that the key accepts both ends and every choice."""
    axes = [axis(key, text, hint_of(base, key)) for key, text in space.items()]
    for one in axes:
        for word in one.ends():
            revise(base, [word], drawn=True)
    return axes


def new_folder(wanted: str, label: str) -> Path:
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path(wanted).expanduser() if wanted else Path("runs") / f"{stamp}_{path_safe(label)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RequestError(f"run.dir={folder} is not empty; a sweep that began there goes on with: sweep {folder}")
    except OSError as error:
        raise RequestError(f"run.dir={folder}: cannot be written ({error.strerror}); choose another") from None
    return folder


def find_sweep(word: str, root: Path = Path("runs")) -> Path:
    """Find a sweep by its folder, `last`, or part of a name under `root`."""
    direct = Path(word).expanduser()
    if (direct / "sweep.json").is_file():
        return direct
    sweeps = sorted(path.parent for path in root.glob("*/sweep.json"))
    if word == "last" and sweeps:
        return sweeps[-1]
    matches = [folder for folder in sweeps if word.lower() in folder.name.lower()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RequestError(f"{word!r} fits {len(matches)} sweeps: {', '.join(folder.name for folder in matches[:3])}")
    raise RequestError(f"no sweep {word!r} under {root}/; words of a new one are key=value")


def require_optuna() -> None:
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise RequestError("sweep needs Optuna, which is not installed: pip install 'rlgym-ssl[sweep]'")


def _say(line: str) -> None:
    print(f"rlgym: {line}" if not line.startswith("  ") else line, file=sys.stderr)
