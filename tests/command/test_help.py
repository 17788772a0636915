"""Help: instant, complete, and true."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest

from rlgym import __version__
from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.cli import help
from rlgym.cli.commands import COMMANDS, options_of
from rlgym.config.groups import GROUPS, SUMMARIES, choices
from rlgym.config.parser import keys
from rlgym.config.schema import TrainConfig
from tests.command.conftest import ROOT, Answer


def test_help_is_instant_and_imports_nothing_heavy(shell: Callable[..., Answer]) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        answer = shell("--help")
        seconds.append(time.perf_counter() - start)
        assert answer.code == 0 and answer.err == ""
    assert min(seconds) < 0.6


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        ("--help", "torch|gymnasium|hydra|omegaconf|numpy|rich|transformers"),
        ("train --help", "torch|gymnasium|hydra|omegaconf|numpy|rich|transformers"),
        ("evaluate --help", "torch|gymnasium|hydra|omegaconf|numpy|rich|transformers"),
        ("--cfg job", "torch|transformers|tensorboard"),
    ],
)
def test_what_it_does_not_import(words: str, heavy: str, tmp_path: Path) -> None:
    code = f"import sys; from rlgym.cli.main import main; main({words.split()}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert loaded & set(heavy.split("|")) == set()


def test_overview_names_every_command_group_and_choice(command: Callable[..., Answer]) -> None:
    text = command("--help").out
    assert command("-h").out == text
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", text, re.M), name
    for group in GROUPS["train"]:
        assert re.search(rf"^{group}=: ", text, re.M), group
        for choice, summary in choices("train", group).items():
            assert re.search(rf"^  {group}={re.escape(choice)}\s+{re.escape(summary[:20])}", text, re.M), choice


def test_train_help_has_every_key_with_its_default(
    command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = command("train", "--help").out
    expected = set(keys(TrainConfig)) | set(keys(PPOConfig, "agent"))
    shown = set(re.findall(r"^  ([a-z_.]+)=\S*(?:\s|$)", text, re.M))
    assert expected - shown == {"agent.name", "env.id"}  # set by agent= and env=
    assert re.search(
        rf"^  agent.n_steps={PPOConfig().n_steps}\s+steps of each environment in one rollout \(>0\)", text, re.M
    )
    assert re.search(r"^  agent.net_arch=\[64,64\] ", text, re.M)
    assert re.search(r"^  log.histograms=true ", text, re.M)
    assert "(tanh, relu)" in text


def test_help_shows_the_chosen_agents_keys_and_ones_own_folder(command: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\n# my own recipe\n")
    answer = command("train", "agent=ppo", "--help", "--config-dir", str(tmp_path))
    assert re.search(r"^  experiment=mine\s+my own recipe$", answer.out, re.M)
    assert "keys of agent=ppo" in answer.out


OPTIONS = {name: options_of(command) for name, command in COMMANDS.items() if command.options}


@pytest.mark.parametrize("name", OPTIONS)
def test_help_of_a_command_has_its_options(name: str, command: Callable[..., Answer]) -> None:
    answer = command(name, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: rlgym {name}")
    for f in fields(cast(Any, OPTIONS[name])):
        assert re.search(rf"^  {f.name}=", answer.out, re.M), f.name


def test_every_key_has_a_help_line() -> None:
    for cls in (TrainConfig, PPOConfig, *OPTIONS.values()):
        for name, text in help._keys(cls):
            assert len(text) > 5, name


def test_help_fits_the_terminal(command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = [line for line in command("train", "--help").out.splitlines() if len(line) > 80]
    assert all(line.endswith(SUMMARIES[line.split("=")[0]]) for line in long)


def test_a_reader_that_stops_reading_is_no_fault(tmp_path: Path) -> None:
    line = f"{sys.executable} -m rlgym train --help | head -n 1"
    done = subprocess.run(["bash", "-c", line + "; echo ${PIPESTATUS[0]}"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0" and done.stderr == ""


def test_version(command: Callable[..., Answer]) -> None:
    assert command("--version") == Answer(0, f"rlgym {__version__}\n", "")
