"""What a resume does with a budget that was spent, and with a goal that was reached."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import rlgym.training.curves
from rlgym.cli.commands import COMMANDS, options_of
from rlgym.cli.main import main
from rlgym.config.options import read
from rlgym.config.schema import FinetuneConfig, PretrainConfig, RootConfig, TrainConfig
from rlgym.ssl.config import MaskedConfig, NextTokenConfig
from rlgym.ssl.finetune.config import ClassificationMethod, GRPOMethod, RewardModelMethod

WORDS = ["env=CartPole-v1", "tuned=off", "agent.n_steps=32", "agent.batch_size=128", "display=quiet"]


def summary(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "summary.json").read_text())
    return found


def test_a_run_that_reached_its_goal_goes_on_when_more_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    goal = ["stop.at=1", "evaluate.every=512", "evaluate.episodes=2", "steps=4096", f"run.dir={run}"]
    assert main([*WORDS, *goal]) == 0
    assert summary(run)["steps"] == 512 and "reached eval/mean_reward" in str(summary(run)["reason"])
    assert main(["resume", str(run), "steps=8192", "display=quiet"]) == 0
    assert summary(run)["steps"] == 1024, "trained on, to the next evaluation, which reaches the goal again"


TINY = [*WORDS[:2], "env.num_envs=2", "agent.n_steps=32", "agent.batch_size=32", "agent.n_epochs=1", "compile=off"]
TINY += ["log.histograms=false", "evaluate.episodes=1", "display=plain"]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ("steps=100", " steps=200 schedule_steps=200"),
        ("steps=20", " steps=128 schedule_steps=128"),  # a rollout overshoots it by more than twice
        ("updates=2", " updates=4"),
        ("updates=2 steps=128", " steps=256 schedule_steps=256 updates=4"),
        ("minutes=1e-6", " minutes="),
        ("stop.at=1 evaluate.every=64", ""),
        ("stop.patience=1 evaluate.every=64 steps=640", ""),
    ],
)
def test_the_command_to_go_on_goes_on_whatever_ended_the_run(
    ends: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what would do nothing is refused, and leaves every file as it was."""
    monkeypatch.setattr(rlgym.training.curves, "curves", lambda folder: [])
    run = tmp_path / "a run"
    assert main([*TINY, *ends.split(), f"run.dir='{run}'"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("go on"))
    python, _, name, *argv = shlex.split(line.removeprefix("go on"))
    assert (python, name) == ("python", "rlgym") and line.partition(f"'{run}'")[2].startswith(words)
    before, files = summary(run), contents(run)
    step = int(str(before["steps"]))
    for nothing in (["resume", str(run)], ["resume", str(run), f"steps={step}"], ["resume", str(run), "steps=1"]):
        if words or len(nothing) > 2:
            assert main(nothing) == 2 and contents(run) == files
            said = capsys.readouterr().err
            assert said.startswith(f"rlgym: {run}: nothing to go on with, ") and " would do\n" in said
    assert main([*argv, "display=quiet"]) == 0
    assert int(str(summary(run)["steps"])) > step


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        PretrainConfig(objective=NextTokenConfig()),
        PretrainConfig(objective=MaskedConfig()),
        FinetuneConfig(method=ClassificationMethod()),
        FinetuneConfig(method=RewardModelMethod()),
        FinetuneConfig(method=GRPOMethod()),
    ],
    ids=lambda config: f"{config.root}_{getattr(config, 'method', None) or getattr(config, 'objective', '')}"[:40],
)
def test_the_commands_to_try_next_are_whole(config: RootConfig) -> None:
    """Their words are those of the command for this kind of run, and what it needs is among them."""
    for command in config.products.values():
        name, run, *rest = shlex.split(command)
        words = read(options_of(COMMANDS[name].code[config.root]), rest)
        assert run == "RUN" and (name not in ("fill", "predict") or words["text"] or words["data"])


def learning_rates(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/learning_rate"] for row in rows if "train/learning_rate" in row]


def test_a_schedule_that_ended_is_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    every = ["log.every=256", "evaluate.every=0", "evaluate.episodes=2"]
    assert main([*WORDS, *every, "steps=512", f"run.dir={run}"]) == 0
    assert main(["resume", str(run), "steps=1024", "display=quiet"]) == 0
    assert "agent.learning_rate_schedule brought the learning rate to 0 at step 512" in (run / "log.txt").read_text()
    assert learning_rates(run)[-2:] == [0, 0]
    assert main(["resume", str(run), "steps=2048", "schedule_steps=2048", "display=quiet"]) == 0
    assert len(learning_rates(run)) == 8 and min(learning_rates(run)[-4:]) > 0, "stretched when asked"


def test_episodes_that_the_program_cut_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the closing lines, the log and the record; `evaluate` heeds the key of training, or its own."""
    run, words = tmp_path / "run", ["env=Pendulum-v1", "agent.n_steps=32", "agent.batch_size=128", "steps=256"]
    words += ["evaluate.every=0", "evaluate.episodes=2", "evaluate.max_episode_steps=20", "display=plain"]
    assert main([*words, "agent.n_epochs=1", "tuned=off", f"run.dir={run}"]) == 0
    said = "2 of 2 episodes were cut at 20 steps: nothing had ended them"
    assert said in capsys.readouterr().out and said in (run / "log.txt").read_text()
    record = json.loads((run / "evaluations/step_256.json").read_text())
    assert record["cut_episodes"] == 2 and record["episodes"][0]["length"] == 20
    assert main(["evaluate", str(run), "episodes=2"]) == 0 and said in capsys.readouterr().out
    assert main(["evaluate", str(run), "episodes=2", "max_episode_steps=200"]) == 0
    assert "cut" not in capsys.readouterr().out
