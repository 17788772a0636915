"""`-m`: every combination of the words' values, as one run each.

Every job's request is checked before the first starts. Hydra's launchers then run the jobs (`hydra/launcher=joblib` and
its like work), but nothing else of its multirun: it would write a folder a job, and end the sweep when one job fails.
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

from rlgym.compose import compose, expand, hydra_at_conf, hydra_words
from rlgym.config import RootConfig
from rlgym.config_file import to_yaml
from rlgym.errors import RequestError, TrainingError
from rlgym.groups import GROUPS
from rlgym.overrides import parse
from rlgym.table import print_table

STOPPED = (130, 143)
"""Exit codes of a run that a person or the system ended; the jobs after it do not start."""

QUIET = (
    "hydra.sweep.dir=runs",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
"""Hydra writes no folder of its own: each job's run folder is the program's."""


def sweep(
    words: Sequence[str],
    command: list[str],
    config_dir: str | None = None,
    show: bool = False,
    root: str = "train",
) -> int:
    """Run every job; the worst exit code. `show`: print the jobs' configs instead."""
    hydra_own = parse([word for word in words if word.lstrip("+").startswith(("hydra.", "hydra/"))], ())
    jobs = expand(list(words), root)
    configs = [_composed(job, config_dir, root) for job in jobs]
    if show:
        for config in configs:
            print(f"---\n{to_yaml(config)}", end="")
        return 0
    _check(jobs, configs)
    settings = [*QUIET, *hydra_words(hydra_own, config_dir)]
    lines = [hydra_words(parse(job, GROUPS[root]), None) for job in jobs]
    rows = _launch(root, settings, lines, Job(jobs, configs, command))
    print_table(rows, ("job", "words", "folder", "exit code", "return"))
    return max(int(row["exit code"]) for row in rows)


class Job:
    """What a launcher calls for each job, perhaps in another process: trains the job's config, gives a table's row."""

    def __init__(self, jobs: list[list[str]], configs: list[RootConfig], command: list[str]) -> None:
        self.jobs, self.configs, self.command = jobs, configs, command
        self.stopped = 0

    def __call__(self, _: DictConfig) -> dict[str, Any]:
        from rlgym.training import run_training

        index = int(HydraConfig.get().job.num)
        row: dict[str, Any] = {"job": index + 1, "words": " ".join(self.jobs[index])}
        if self.stopped:
            return row | {"exit code": self.stopped, "folder": "not started"}
        print(f"rlgym: job {index + 1} of {len(self.jobs)}: {row['words']}", file=sys.stderr)
        try:
            run = run_training(self.configs[index], self.command)
        except (RequestError, TrainingError) as error:
            print(f"rlgym: job {index + 1}: {' '.join(str(error).split())}", file=sys.stderr)
            return row | {"exit code": error.exit_code}
        except Exception:  # a fault of one job's code must not take the others with it
            traceback.print_exc()
            return row | {"exit code": 1}
        if run.exit_code in STOPPED:
            self.stopped = run.exit_code
        return row | {"exit code": run.exit_code, "folder": str(run.dir), "return": _final_return(run.summary)}


def _final_return(summary: dict[str, Any]) -> float | None:
    from rlgym.display import headline

    found = headline(summary.get("final") or {})
    return found[1] if found else None


def _composed(job: list[str], config_dir: str | None, root: str) -> Any:
    try:
        return compose(job, root, config_dir)
    except RequestError as error:
        raise RequestError(f"{error} (in job {' '.join(job)})" if job else str(error)) from error


def _check(jobs: list[list[str]], configs: list[RootConfig]) -> None:
    from rlgym.training import check_request

    folders = [config.run.dir for config in configs if config.run.dir]
    if len(folders) != len(set(folders)):
        raise RequestError(f"run.dir={folders[0]}: one folder for several jobs; leave it out, or sweep over it too")
    for job, config in zip(jobs, configs, strict=True):
        try:
            check_request(config)
        except RequestError as error:
            raise RequestError(f"{error} (in job {' '.join(job)})") from error


def _launch(root: str, settings: list[str], lines: list[list[str]], task: Job) -> list[dict[str, Any]]:
    """`settings` are the words of the sweep, `lines` those of each job, both as Hydra composes them."""
    try:
        with hydra_at_conf():
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
    """Of Hydra's own node only the launcher names code to run, and only a plugin that is installed."""
    target = str(OmegaConf.select(config, "hydra.launcher._target_"))
    if not target.startswith(("hydra._internal.core_plugins.", "hydra_plugins.")):
        raise RequestError(f"hydra.launcher._target_={target}: must be a Hydra launcher plugin")
