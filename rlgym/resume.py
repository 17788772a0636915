"""`resume RUN`: continue a run in its own folder from its newest sound checkpoint."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from rlgym import checkpoint
from rlgym.config_file import load_config, save_config
from rlgym.errors import CheckpointError, RequestError
from rlgym.manifest import alive, process
from rlgym.run import Run
from rlgym.training import build_learner, drive


def resume(folder: Path, words: dict[str, Any]) -> Run:
    """Continue the run in `folder`. `words`: new budgets (`steps`, `updates`, `minutes`), `schedule_steps`, `device`,
    `display`, `trust`; those that are None stay as the run began.

    Schedules stay functions of the first budget unless `schedule_steps` says otherwise.
    """
    run = Run(folder)
    if trained_elsewhere(run.manifest):
        raise RequestError(f"{folder} is being trained by process {run.manifest['pid']}; stop that one first")
    config = load_config(folder, trust=words["trust"])
    began = (config.steps, config.updates, config.minutes)
    if config.schedule_steps is None:
        config.schedule_steps = config.steps
    for name in ("steps", "updates", "minutes", "schedule_steps", "device"):
        if words[name] is not None:
            setattr(config, name, words[name])
    config.display = words["display"]
    try:
        found = checkpoint.newest(folder, _warn)
        state, loop_state = checkpoint.load(found)
    except CheckpointError as error:
        raise RequestError(f"{folder} cannot be resumed: {error}") from error
    step = int(state["progress"]["step"])
    if step >= config.steps and began == (config.steps, config.updates, config.minutes):
        raise RequestError(
            f"{folder} has spent its budget of {config.steps:,}; give it more, as in steps={2 * config.steps}"
        )
    if began != (config.steps, config.updates, config.minutes):  # more was asked for than what ended the run
        loop_state |= {"evaluated": -1, "since_best": 0}
    learner = build_learner(config)
    try:
        try:
            learner.load_state_dict(state)
        except (KeyError, ValueError) as error:
            said = " ".join(str(error).split())
            raise RequestError(f"{folder}: its checkpoint does not fit its config.yaml ({said}); changed?") from error
        save_config(config, run.config_path)
        run.update_manifest(**process(), end=None, resumed_from=[*run.manifest.get("resumed_from", []), step])
        return drive(learner, config, run, loop_state)
    finally:
        learner.close()


def trained_elsewhere(recorded: dict[str, Any]) -> bool:
    """Whether another process of this machine is at work in the run; those of other machines cannot be seen."""
    pid = recorded.get("pid")
    here = recorded.get("host") == socket.gethostname() and isinstance(pid, int) and pid != os.getpid()
    return here and recorded.get("status") == "running" and alive(recorded["pid"], recorded.get("pid_start"))


def _warn(line: str) -> None:
    print(f"rlgym: {line}", file=sys.stderr)
