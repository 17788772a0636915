"""From a config to a finished run folder: what `train`, `rerun` and `resume` have in common."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlgym import checkpoint, registry
from rlgym.budgets import leading, more
from rlgym.compose import compose
from rlgym.config_file import names_of_code, to_yaml
from rlgym.display import Display, make_display
from rlgym.errors import TrainingError
from rlgym.loop import Loop, Outcome, Watch
from rlgym.manifest import now
from rlgym.run import Run, create_run
from rlgym.schedules import cut_short
from rlgym.tracking import Tracker
from rlgym.typed import to_dict

if TYPE_CHECKING:
    from rlgym.config import RootConfig
    from rlgym.learner import Learner


def train(*words: str) -> Run:
    """Train by the words of the command line, `train("agent=ppo", "env=CartPole-v1")`; returns the finished run.

    Raises RequestError when the request is wrong and TrainingError when training failed.
    """
    return _train("train", list(words))


def pretrain(*words: str) -> Run:
    """Learn from text by the words of the command line, `pretrain("model=gpt_mini")`; as `train`."""
    return _train("pretrain", list(words))


def finetune(*words: str) -> Run:
    """Go on from a pretrained model by the words of the command line, `finetune("init_from=last")`; as `train`."""
    return _train("finetune", list(words))


def _train(root: str, words: list[str]) -> Run:
    return run_training(compose(words, root), ["rlgym", root, *words], fail=_raise)


def learner_class(config: RootConfig) -> Any:
    return registry.resolve(config.learner or registry.entry(config.learner_group, config.learner_name).target)


def build_learner(config: RootConfig, run: Run | None = None) -> Learner:
    """The learner that the config names, its environments started, its corpus prepared. RequestErrors only; writes
    nothing into a run. `run`: one to resume; a learner with a `resumed` takes from its folder what cannot be made anew.
    """
    cls = learner_class(config)
    build = cls.resumed if run is not None and hasattr(cls, "resumed") else cls
    learner: Learner = build(config) if run is None or build is cls else build(config, run.dir)
    return learner


def check_request(config: RootConfig) -> None:
    """Whether a run of this config could start; a RequestError says why not. Leaves `config` as it was."""
    from copy import deepcopy

    build_learner(deepcopy(config)).close()


def run_training(
    config: RootConfig,
    command: list[str],
    fail: Callable[[TrainingError], None] | None = None,
    watch: Watch | None = None,
) -> Run:
    """Train a new run by `config`. A TrainingError goes to `fail`; by default it is one line on stderr, exit code 3.
    `watch` sees every evaluation and may end the run."""
    learner = build_learner(config)
    try:
        run = create_run(config, command, resume=learner.exactness, **learner.facts, **_hardware(config))
        return drive(learner, config, run, fail=fail, watch=watch)
    finally:
        learner.close()


def drive(
    learner: Learner,
    config: RootConfig,
    run: Run,
    loop_state: dict[str, Any] | None = None,
    fail: Callable[[TrainingError], None] | None = None,
    watch: Watch | None = None,
) -> Run:
    """Run the loop over `learner` in `run`'s folder, from `loop_state` on if it is a resume, and write how it ended."""
    tracker = Tracker(run.dir, None if loop_state is None else learner.progress.step)
    display = make_display(config.display, _title(config, run), learner.unit, learner.monitor[0])
    tracker.hparams(asdict(config), [learner.monitor[0]])
    loop = Loop(learner, config, run, tracker, display, watch)
    if loop_state is not None:
        loop.resume(loop_state)
    else:
        tracker.text("config", f"```yaml\n{to_yaml(config)}\n```", 0)
        for tag, text in learner.furnish(run.dir).items():
            tracker.text(tag, text, 0)
    run.update_manifest(status="running", monitor=list(learner.monitor))
    failure: TrainingError | None = None
    display.start()
    try:
        try:
            outcome = loop()
        except KeyboardInterrupt as error:
            if loop.signal is None:  # the first Ctrl-C raises nothing: this is an environment's own
                raise TrainingError(f"{config.label}: KeyboardInterrupt was raised, and not by Ctrl-C") from error
            raise
    except TrainingError as error:
        run.log_traceback(error)
        failure = error
        outcome = Outcome("failed", str(error), error.exit_code, loop.latest, loop.state)
    except KeyboardInterrupt:
        outcome = Outcome("stopped", "interrupted twice, without a last checkpoint", 130, loop.latest, loop.state)
    except BaseException as error:
        run.log_traceback(error)
        run.update_manifest(status="failed", end=now())
        tracker.close(success=False)
        display.close()
        raise
    run.exit_code = outcome.exit_code
    _conclude(learner, config, run, loop, outcome, tracker, display)
    if failure is not None:
        (fail or _print)(failure)
    return run


def _conclude(
    learner: Learner, config: RootConfig, run: Run, loop: Loop, outcome: Outcome, tracker: Tracker, display: Display
) -> None:
    """Summary, manifest, hparams, curves, and the last lines on the terminal."""
    state, seconds = outcome.state, loop.seconds
    tag, _ = learner.monitor
    best = None if state.best is None else {tag: state.best, "step": state.best_step}
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
    run.update_manifest(status=outcome.status, end=now(), monitor=list(learner.monitor))
    display.close()
    if outcome.status == "finished":
        from rlgym.plots import curves  # matplotlib takes a second to import

        for picture in curves(run.dir):
            tracker.image(f"curves/{picture.stem}", picture.read_bytes(), learner.progress.step)
    tracker.close(success=outcome.status != "failed")
    if outcome.status != "failed":
        for line in loop.lines:
            run.log_line(line)
        display.finish(closing_words(config, run, loop, outcome, best))


def closing_words(config: RootConfig, run: Run, loop: Loop, outcome: Outcome, best: dict[str, Any] | None) -> list[str]:
    """The final summary: what came out, where it is, and the commands to try next."""
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
        lines += [f"{word:<12} python -m rlgym {cmd} {folder}{trust}" for word, cmd in config.products.items()]
    if outcome.status == "finished" and (words := more(found)):
        lines.append(f"go on        python -m rlgym resume {folder} {words}{trust}")
    elif checkpoint.steps(run.dir):
        lines.append(f"go on        python -m rlgym resume {folder}{trust}")
    else:
        lines.append(f"again        python -m rlgym rerun {folder}{trust}")
    return lines


def _hardware(config: RootConfig) -> dict[str, Any]:
    from rlgym.device import hardware, pick_device

    return hardware(pick_device(config.device))


def _title(config: RootConfig, run: Run) -> str:
    return f"{' on '.join(config.subject.values())}, seed {config.seed}, {config.device}: {run.dir}"


def _print(error: TrainingError) -> None:
    print(f"rlgym: {' '.join(str(error).split())}", file=sys.stderr)


def _raise(error: TrainingError) -> None:
    raise error
