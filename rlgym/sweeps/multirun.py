"""`-m`: one run for every combination of values. All jobs are checked before the first one starts. `jobs=N` runs N at a
time. Otherwise Hydra's launcher runs them, sequentially unless a plugin is installed (`hydra/launcher=submitit_slurm`
and others work). Nothing else of Hydra's multirun is used: it would write one folder per job, and abort the sweep when
a job fails.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlgym.common.pool import Died, Signals, in_processes
from rlgym.common.table import print_table
from rlgym.config.compose import compose, expand, hydra_at_conf, hydra_words
from rlgym.config.groups import GROUPS, config_folder
from rlgym.config.io import to_yaml
from rlgym.config.overrides import parse
from rlgym.config.schema import RootConfig
from rlgym.errors import RequestError, TrainingError
from rlgym.run_folder.folder import measured

STOPPED = (129, 130, 143)
"""Exit codes of interrupted runs; later jobs do not start."""

QUIET = (
    "hydra.sweep.dir=runs",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
"""Overrides that stop Hydra from writing folders of its own."""

SIDE_BY_SIDE = {"threads": "threads=1", "display": "display=quiet"}
"""Defaults of parallel jobs, whose live displays would overwrite each other."""


def sweep(
    words: Sequence[str],
    command: list[str],
    config_dir: str | None = None,
    show: bool = False,
    root: str = "train",
) -> int:
    """Run every job and return the worst exit code. `show`: print the jobs' configs instead."""
    config_dir = config_folder(config_dir)
    count, words = jobs_at_once(words)
    own = [word for word in words if word.lstrip("+").startswith(("hydra.", "hydra/"))]
    if count > 1:
        if own:
            raise RequestError(f"{own[0]}: jobs={count} starts its own processes; leave out one of the two")
        words = side_by_side(words)
    jobs = expand(list(words), root)
    configs = [_composed(job, config_dir, root) for job in jobs]
    if show:
        for config in configs:
            print(f"---\n{to_yaml(config)}", end="")
        return 0
    _check(jobs, configs)
    if count > 1:
        rows = _side_by_side(root, jobs, config_dir, command, count)
    else:
        settings = [*QUIET, *hydra_words(parse(own, ()))]
        lines = [hydra_words(parse(job, GROUPS[root])) for job in jobs]
        rows = _launch(root, settings, lines, Job(jobs, configs, command), config_dir)
    print_table(rows, ("job", "words", "folder", "exit code", "metric", "final"))
    return max(int(row["exit code"]) for row in rows)


def jobs_at_once(words: Sequence[str]) -> tuple[int, list[str]]:
    """The N of `jobs=N` (default 1), and the other arguments."""
    given = [word for word in words if word.startswith("jobs=")]
    rest = [word for word in words if word not in given]
    if not given:
        return 1, rest
    number = given[-1].removeprefix("jobs=")
    if not number.isdecimal() or int(number) < 1:
        raise RequestError(f"jobs={number}: must be a whole number of processes, 1 or more")
    return int(number), rest


def side_by_side(words: Sequence[str]) -> list[str]:
    given = {word.lstrip("+").split("=", 1)[0] for word in words}
    return [*words, *(word for key, word in SIDE_BY_SIDE.items() if key not in given)]


# ---- one job


class Job:
    """Called by the launcher for each job, possibly in another process: trains the job's config and returns a row of
    the table."""

    def __init__(self, jobs: list[list[str]], configs: list[RootConfig], command: list[str]) -> None:
        self.jobs, self.configs, self.command = jobs, configs, command
        self.stopped = 0

    def __call__(self, _: DictConfig) -> dict[str, Any]:
        index = int(HydraConfig.get().job.num)
        if self.stopped:
            return _row(index, self.jobs[index]) | {"exit code": self.stopped, "folder": "not started"}
        print(f"rlgym: job {index + 1} of {len(self.jobs)}: {' '.join(self.jobs[index])}", file=sys.stderr)
        row = train_job(index, self.jobs[index], self.configs[index], self.command)
        if row["exit code"] in STOPPED:
            self.stopped = row["exit code"]
        return row


def train_job(index: int, words: list[str], config: RootConfig, command: list[str]) -> dict[str, Any]:
    """A row of the table; errors are on stderr."""
    from rlgym.training.train import run_training

    row = _row(index, words)
    try:
        run = run_training(config, command)
    except (RequestError, TrainingError) as error:
        print(f"rlgym: job {index + 1}: {' '.join(str(error).split())}", file=sys.stderr)
        return row | {"exit code": error.exit_code}
    except Exception:  # an exception in one job must not end the others
        traceback.print_exc()
        return row | {"exit code": 1}
    return row | {"exit code": run.exit_code, "folder": str(run.dir)} | measured(run.manifest, run.summary)


def _row(index: int, words: list[str]) -> dict[str, Any]:
    return {"job": index + 1, "words": " ".join(words)}


# ---- several jobs at once


def _side_by_side(
    root: str, jobs: list[list[str]], config_dir: str | None, command: list[str], count: int
) -> list[dict[str, Any]]:
    signals = Signals()
    rows: dict[int, dict[str, Any]] = {}

    def tasks() -> Any:
        for index, job in enumerate(jobs):
            if any(row["exit code"] in STOPPED for row in rows.values()):
                return
            print(f"rlgym: job {index + 1} of {len(jobs)} starts: {' '.join(job)}", file=sys.stderr)
            yield index, job, root, config_dir, command

    for (index, job, *_), answer in in_processes(work, tasks(), count, signals):
        if isinstance(answer, Died):
            print(f"rlgym: job {index + 1}: {answer}", file=sys.stderr)
            answer = _row(index, job) | {"exit code": _stop_code(signals) or 1}
        rows[index] = answer
        code, value = answer["exit code"], answer.get("final")
        result = "" if value is None else f", {answer['metric']} {value:.4g}"
        print(f"rlgym: job {index + 1} ended with exit code {code}{result}", file=sys.stderr)
    stopped = max((row["exit code"] for row in rows.values() if row["exit code"] in STOPPED), default=0)
    absent = {"exit code": _stop_code(signals) or stopped or 1, "folder": "not started"}
    return [rows.get(index, _row(index, job) | absent) for index, job in enumerate(jobs)]


def _stop_code(signals: Signals) -> int:
    return 0 if signals.number is None else 128 + signals.number


def work(task: tuple[int, list[str], str, str | None, list[str]]) -> dict[str, Any]:
    """Run a job in its own process; it composes its config again, so that only the arguments are sent."""
    index, job, root, config_dir, command = task
    try:
        return train_job(index, job, compose(job, root, config_dir), command)
    except KeyboardInterrupt:
        return _row(index, job) | {"exit code": 130}


# ---- checking and launching


def _composed(job: list[str], config_dir: str | None, root: str) -> Any:
    try:
        return compose(job, root, config_dir)
    except RequestError as error:
        raise RequestError(f"{error} (in job {' '.join(job)})" if job else str(error)) from error


def _check(jobs: list[list[str]], configs: list[RootConfig]) -> None:
    from rlgym.training.train import check_request

    folders = [config.run.dir for config in configs if config.run.dir]
    if len(folders) != len(set(folders)):
        raise RequestError(f"run.dir={folders[0]}: one folder for several jobs; leave it out, or sweep over it too")
    for job, config in zip(jobs, configs, strict=True):
        try:
            check_request(config)
        except RequestError as error:
            raise RequestError(f"{error} (in job {' '.join(job)})") from error


def _launch(
    root: str, settings: list[str], lines: list[list[str]], task: Job, config_dir: str | None
) -> list[dict[str, Any]]:
    """`settings` are the sweep's arguments, `lines` those of each job, as composed by Hydra."""
    try:
        with hydra_at_conf(config_dir):
            instance = GlobalHydra.instance().hydra
            assert instance is not None
            config = instance.compose_config(root, settings, run_mode=RunMode.MULTIRUN)
            _check_launcher(config)
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=HydraContext(config_loader=instance.config_loader, callbacks=Callbacks()),
                task_function=task,
                config=config,
            )
            returned = launcher.launch(lines, initial_job_idx=0)
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(f"Hydra's launcher: {str(error).strip().splitlines()[0]}") from error
    return [job.return_value for job in returned]


def _check_launcher(config: DictConfig) -> None:
    """Check Hydra's own node: only the launcher may name code to run, and only an installed plugin."""
    target = str(OmegaConf.select(config, "hydra.launcher._target_"))
    if not target.startswith(("hydra._internal.core_plugins.", "hydra_plugins.")):
        raise RequestError(f"hydra.launcher._target_={target}: must be a Hydra launcher plugin")
