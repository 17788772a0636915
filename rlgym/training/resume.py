"""`resume RUN`: continue a run in its folder from its newest valid checkpoint."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlgym.errors import CheckpointError, RequestError
from rlgym.learner import REPLAY
from rlgym.run_folder import checkpoint
from rlgym.run_folder.config_file import load_config, save_config
from rlgym.run_folder.folder import LOG, Run
from rlgym.run_folder.lock import locked
from rlgym.run_folder.manifest import alive, process, promises
from rlgym.run_folder.records import expect
from rlgym.training.budgets import budgets, more
from rlgym.training.loop import LoopState
from rlgym.training.train import build_learner, close, drive


def resume(folder: Path, words: dict[str, Any]) -> Run:
    """Continue the run in `folder`. `words`: new budgets (`steps` or `tokens`, `updates`, `minutes`), `schedule_steps`
    or `schedule_tokens`, `device`, `display`, `replay`, `force`, `trust`; None keeps the run's value. Schedules refer
    to the first budget unless `schedule_...` is given.
    """
    run = Run(folder)
    if trained_elsewhere(run.manifest):
        raise RequestError(f"{folder} is being trained by process {run.manifest['pid']}; stop that one first")
    with locked(folder / LOG, folder):
        return _resume(run, words)


def _resume(run: Run, words: dict[str, Any]) -> Run:
    folder = run.dir
    config = load_config(folder, trust=words["trust"])
    began = (config.budget, config.updates, config.minutes)
    key = config.budget_key
    setattr(config, f"schedule_{key}", config.schedule_budget)
    for name in ("steps", "tokens", "schedule_steps", "schedule_tokens"):
        if words[name] is not None and name not in (key, f"schedule_{key}"):
            raise RequestError(f"{name}={words[name]}: the budget of {folder} is in {key}")
    for name in (key, "updates", "minutes", f"schedule_{key}", "device"):
        if words[name] is not None:
            setattr(config, name, words[name])
    config.display = words["display"]
    without = () if words["replay"] else (REPLAY,)
    try:
        newest = checkpoint.newest(folder, _warn, without)
        state, saved = checkpoint.load(newest, without)
        step, update = checkpoint.position(state, newest)
        loop_state = _loop_state(newest, {"reported": step, **saved})
    except CheckpointError as error:
        raise _cannot_resume(run, error, without) from error
    asked = began != (config.budget, config.updates, config.minutes)
    concluded = run.manifest.get("status") == "finished"  # or was killed in its last evaluation, which is repeated
    now = budgets(config, key, step, update, loop_state["seconds"])
    if (asked or concluded) and any(budget.spent for budget in now):
        done = " and ".join(f"{budget} are done" for budget in now if budget.spent)
        raise RequestError(f"{folder}: nothing to go on with, {done}; {more(now)} would do")
    if asked or concluded:  # reset the goal that ended it
        loop_state |= {"evaluated": -1, "since_best": 0}
    learner = build_learner(config, run)
    try:
        _check_corpus(run, learner.facts.get("data"), words["force"])
        if without and REPLAY not in learner.exactness:
            raise RequestError(f"replay=false: {folder} learns from no replay; leave the word out")
        try:
            with checkpoint.fitting(folder):
                learner.load_state_dict(state)
        except CheckpointError as error:
            raise _cannot_resume(run, error, without) from error
        again = [*run.manifest.get("resumed_from", []), step]
        without_replay = run.manifest.get("without_replay", [])
        if REPLAY in learner.exactness and REPLAY not in state:
            without_replay = [*without_replay, step]
        kept = {"without_replay": without_replay} if without_replay else {}
        try:  # the manifest first: config.yaml is known to be a file, the manifest may not be
            exactness = promises(run.manifest.get("resume"), learner.exactness)
            run.update_manifest(**process(), end=None, resume=exactness, resumed_from=again, **kept)
            save_config(config, run.config_path)
        except OSError as error:
            raise RequestError(f"{folder}: cannot be written ({error.strerror})") from None
        return drive(learner, config, run, loop_state)
    finally:
        close(learner)


def _cannot_resume(run: Run, error: CheckpointError, without: tuple[str, ...]) -> RequestError:
    """The error, and if only past experience is damaged, how to continue without it."""
    remedy = ""
    if not without and REPLAY in (run.manifest.get("resume") or {}):
        with suppress(CheckpointError):
            checkpoint.newest(run.dir, lambda line: None, (REPLAY,))
            remedy = "; put it back, or go on with replay=false, gathering the replay anew before learning goes on"
    return RequestError(f"{run.dir} cannot be resumed: {error}{remedy}")


def _loop_state(path: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """The loop's part of a checkpoint; CheckpointError if it is malformed."""
    try:
        return asdict(LoopState(**expect(saved, LoopState)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the state of the training loop cannot be read ({error})") from None


def _check_corpus(run: Run, data: dict[str, Any] | None, force: bool) -> None:
    """Check that the corpus is the one the run started with; other text under the same name would go unnoticed."""
    recorded = run.manifest.get("data")
    if data is None or not recorded:
        if force:
            raise RequestError(f"force=true: {run.dir} learns from no corpus that could have changed")
        return
    if recorded.get("fingerprint") == data["fingerprint"]:
        return
    if not force:
        raise RequestError(
            f"{run.dir}: the corpus is no longer the one it began with ({recorded.get('documents', 0):,} documents and "
            f"{recorded.get('bytes', 0):,} bytes then, {data['documents']:,} and {data['bytes']:,} now); put the files "
            "back, or go on with force=true"
        )
    run.update_manifest(data=data, data_before=[*run.manifest.get("data_before", []), recorded])


def trained_elsewhere(recorded: dict[str, Any]) -> bool:
    """Whether another process of this machine is training the run; other machines are not visible."""
    pid = recorded.get("pid")
    here = recorded.get("host") == socket.gethostname() and isinstance(pid, int) and pid != os.getpid()
    return here and recorded.get("status") == "running" and alive(recorded["pid"], recorded.get("pid_start"))


def _warn(line: str) -> None:
    print(f"rlgym: {line}", file=sys.stderr)
