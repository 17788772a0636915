"""From a config to a finished run folder: the common part of `train`, `rerun` and `resume`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlgym.config import registry
from rlgym.config.io import names_of_code, to_yaml
from rlgym.config.parser import flattened, to_dict
from rlgym.config.sizes import sizes_named
from rlgym.errors import TrainingError
from rlgym.run_folder import checkpoint
from rlgym.run_folder.folder import LOG, Run, create_run
from rlgym.run_folder.lock import locked
from rlgym.run_folder.manifest import now
from rlgym.training.budgets import leading, more
from rlgym.training.loop import Loop, Outcome, Watch
from rlgym.training.progress import Display, make_display
from rlgym.training.schedules import cut_short
from rlgym.training.tracker import Tracker

if TYPE_CHECKING:
    from rlgym.config.schema import RootConfig
    from rlgym.learner import Learner


def build_learner(config: RootConfig, run: Run | None = None) -> Learner:
    """Build the config's learner, with environments started and corpus prepared. Raises RequestErrors only; writes
    nothing. `run`: the run to resume, from whose folder a learner with `resumed` takes what cannot be rebuilt.
    """
    cls = registry.learner_class(config)
    build = cls.resumed if run is not None and hasattr(cls, "resumed") else cls
    values = dict(flattened(to_dict(config)))
    with sizes_named({key: value for key, value in values.items() if key in config.given} or values):
        learner: Learner = build(config) if run is None or build is cls else build(config, run.dir)
    return learner


def check_request(config: RootConfig) -> None:
    """Check that a run of this config could start, else RequestError. Leaves `config` unchanged."""
    from copy import deepcopy

    build_learner(deepcopy(config)).close()


def run_training(
    config: RootConfig,
    command: list[str],
    fail: Callable[[TrainingError], None] | None = None,
    watch: Watch | None = None,
) -> Run:
    """Train a new run by `config`. A TrainingError goes to `fail`; by default it prints one line on stderr, with exit
    code 3. `watch` is called at every evaluation and may end the run."""
    learner = build_learner(config)
    try:
        run = create_run(config, command, resume=learner.exactness, **learner.facts, **_hardware(config))
        with locked(run.dir / LOG, run.dir):
            return drive(learner, config, run, fail=fail, watch=watch)
    finally:
        close(learner)


def close(learner: Learner) -> None:
    """Close a learner; failures, such as in an environment's `close`, are ignored."""
    try:
        learner.close()
    except Exception as error:
        said = " ".join(str(error).split())
        print(f"rlgym: closing the environments or data failed: {type(error).__name__}: {said}", file=sys.stderr)


def drive(
    learner: Learner,
    config: RootConfig,
    run: Run,
    loop_state: dict[str, Any] | None = None,
    fail: Callable[[TrainingError], None] | None = None,
    watch: Watch | None = None,
) -> Run:
    """Run the loop over `learner` in `run`'s folder, from `loop_state` on when resuming, and record how it ended."""
    failure: TrainingError | None = None
    with _recorded(run):
        run.update_manifest(status="running", monitor=list(learner.monitor))
        step = learner.progress.step
        tracker = Tracker(run.dir, None if loop_state is None else loop_state.get("reported", step))
        display = make_display(config.display, _title(config, run), learner.unit, learner.monitor[0])
        loop = Loop(learner, config, run, tracker, display, watch)
        display.start()
        try:
            outcome = _loop(loop, learner, config, run, tracker, loop_state)
        except (TrainingError, OSError) as error:
            run.log_traceback(error)
            failure = error if isinstance(error, TrainingError) else _unwritten(run, error)
            outcome = Outcome("failed", str(failure), failure.exit_code, loop.latest, loop.state)
        except KeyboardInterrupt:
            outcome = Outcome("stopped", "interrupted twice, without a last checkpoint", 130, loop.latest, loop.state)
        except BaseException:
            tracker.close(success=False)
            display.close()
            raise
        run.exit_code = outcome.exit_code
        try:
            _conclude(learner, config, run, loop, outcome, tracker, display)
        except Exception as error:  # the summary or the manifest: the run's own failure takes precedence
            run.log_traceback(error)
            if failure is None:
                raise _unwritten(run, error) from error
    if failure is not None:
        (fail or _print)(failure)
    return run


def _loop(
    loop: Loop, learner: Learner, config: RootConfig, run: Run, tracker: Tracker, loop_state: dict[str, Any] | None
) -> Outcome:
    tracker.hparams(asdict(config), [learner.monitor[0]])
    if loop_state is not None:
        loop.resume(loop_state)
    else:
        tracker.text("config", f"```yaml\n{to_yaml(config)}\n```", 0)
        before = set(run.dir.rglob("*.json"))
        for tag, text in learner.write_run_files(run.dir).items():
            tracker.text(tag, text, 0)
        if files := run.checksums(set(run.dir.rglob("*.json")) - before):
            run.update_manifest(files=files)
    try:
        return loop()
    except KeyboardInterrupt as error:
        if loop.signal is None:  # the first Ctrl-C does not raise: this is an environment's own
            raise TrainingError(f"{config.label}: KeyboardInterrupt was raised, and not by Ctrl-C") from error
        raise


@contextmanager
def _recorded(run: Run) -> Iterator[None]:
    """Update the manifest's status, however the run ends."""
    try:
        yield
    except BaseException as error:
        run.log_traceback(error)
        if run.manifest.get("status") == "running":
            status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(OSError):
                run.update_manifest(status=status, end=now())
        if isinstance(error, OSError):
            raise _unwritten(run, error) from error
        raise


def _unwritten(run: Run, error: Exception) -> TrainingError:
    if not run.dir.is_dir():
        return run.gone()
    said = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return TrainingError(f"{run.dir}: its files could not be written ({said}); put that right, then resume")


def _conclude(
    learner: Learner, config: RootConfig, run: Run, loop: Loop, outcome: Outcome, tracker: Tracker, display: Display
) -> None:
    """Write summary, curves, hparams and manifest, and print the closing lines. The manifest is last, so that a run
    killed before is concluded by a resume."""
    state, seconds = outcome.state, loop.seconds
    tag, _ = learner.monitor
    best = None if state.best is None else {tag: state.best, "step": state.best_step}
    try:
        run.write_summary(
            {
                "status": outcome.status,
                "reason": outcome.reason,
                "steps": learner.progress.step,
                "updates": learner.progress.update,
                "wall_time_s": round(seconds, 3),
                "steps_per_second": round(learner.progress.step / seconds, 1) if seconds else None,
                "final": outcome.final,
                "best": best,
            }
        )
        run.log_line(f"{outcome.status}: {outcome.reason}")
        display.close()
        if outcome.status == "finished":
            with loop.beside("drawing curves"):
                from rlgym.training.curves import curves  # matplotlib takes a second to import

                for picture in curves(run.dir):
                    tracker.image(f"curves/{picture.stem}", picture.read_bytes(), learner.progress.step)
    finally:
        display.close()
        tracker.close(success=outcome.status != "failed")
    run.update_manifest(status=outcome.status, end=now(), monitor=list(learner.monitor))
    if outcome.status != "failed":
        for line in loop.lines:
            run.log_line(line)
        display.finish(closing_words(config, run, loop, outcome, best))


def closing_words(config: RootConfig, run: Run, loop: Loop, outcome: Outcome, best: dict[str, Any] | None) -> list[str]:
    """The final summary: results, folder, and commands to try next."""
    folder = shlex.quote(str(run.dir))
    trust = " trust=true" if any(names_of_code(to_dict(config))) else ""
    lines = [f"{outcome.status}: {outcome.reason}, after {loop.seconds:,.1f} s"]
    if best is not None:
        tag = next(iter(best))
        lines.append(f"best {tag} {best[tag]:.4g} at step {best['step']:,}")
    lines += loop.lines
    found = loop.budgets(outcome.state.seconds)
    if outcome.status == "finished" and not loop.foreseen and leading(found).unit != found[0].unit:
        lines += filter(None, [cut_short(config, found[0].done)])
    lines += [f"folder       {run.dir}", f"tensorboard  tensorboard --logdir {shlex.quote(str(run.dir.parent))}"]
    if outcome.status == "finished":
        for word, command in config.products.items():
            lines.append(f"{word:<12} python -m rlgym {command.replace('RUN', folder)}{trust}")
    if outcome.status == "finished" and (words := more(found)):
        lines.append(f"go on        python -m rlgym resume {folder} {words}{trust}")
    elif checkpoint.steps(run.dir):
        lines.append(f"go on        python -m rlgym resume {folder}{trust}")
    else:
        lines.append(f"again        python -m rlgym rerun {folder}{trust}")
    return lines


def _hardware(config: RootConfig) -> dict[str, Any]:
    from rlgym.config.device import hardware, pick_device

    return hardware(pick_device(config.device))


def _title(config: RootConfig, run: Run) -> str:
    return f"{' on '.join(config.subject.values())}, seed {config.seed}, {config.device}: {run.dir}"


def _print(error: TrainingError) -> None:
    print(f"rlgym: {' '.join(str(error).split())}", file=sys.stderr)
