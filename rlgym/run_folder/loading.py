"""`load(run)`: loads a finished model from its run folder, without building a learner."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rlgym.config.registry import learner_class
from rlgym.errors import RequestError
from rlgym.learner import REPLAY
from rlgym.run_folder import checkpoint
from rlgym.run_folder.checkpoint import fitting
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run, find_run


def load(run: Run | Path | str, checkpoint: str = "best", device: str = "cpu", trust: bool = False) -> Any:
    """The policy or the language model of a run.

    `policy.predict(observation)` gives the action for a Gymnasium environment's `step`; `model.generate("def ")` text.

    `run`: what `rlgym.train` returned, a folder, a short name under runs/, or "last". `checkpoint`: best, latest or a
    step's number. Code that the run's config names by `module:Name` is imported only with `trust`.
    """
    from rlgym.config.device import pick_device

    found = run if isinstance(run, Run) else find_run(str(run))
    config = load_config(found.dir, trust=trust)
    state, _ = open_checkpoint(found, checkpoint)
    with fitting(found.dir):
        return learner_class(config).load(config, state, pick_device(device), found.dir)


def open_checkpoint(run: Run, which: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, loop) of a run's checkpoint: `best` (the latest if nothing was evaluated), `latest`, or a step. Its
    replay is not read."""
    folder = checkpoint.best(run.dir) if which == "best" else None
    if folder is None and which in ("best", "latest"):
        folder = checkpoint.newest(run.dir, lambda line: print(f"rlgym: {line}", file=sys.stderr), (REPLAY,))
    if folder is None:
        folder = run.dir / "checkpoints" / f"step_{which}"
        if not folder.is_dir():
            steps = ", ".join(str(step) for step in checkpoint.steps(run.dir))
            raise RequestError(f"checkpoint={which}: {run.dir} has the steps {steps}")
    return checkpoint.load(folder, without=(REPLAY,))
