"""Huge, odd and unholdable values: one line that names the key, before memory is taken; and remedies that exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import psutil
import pytest
import torch

from rlgym.config.compose import compose
from rlgym.config.memory import require_memory
from rlgym.config.options import GenerateOptions, read
from rlgym.config.sizes import sizes_named
from rlgym.envs.classic import make_native
from rlgym.envs.sync import SyncEnv
from rlgym.errors import RequestError
from rlgym.training.train import check_request
from tests.command.conftest import Answer

DIGITS = "9" * 5_000
LONG = "p" * 300
WRONG = {
    f"steps={DIGITS}": "steps=999",
    f"agent.gamma={DIGITS}": "agent.gamma=999",
    f"+env.kwargs.x={DIGITS}": "env.kwargs.x=999",
    f"steps={'9' * 400}": "must be an integer of 64 bits",
    "agent=rainbow agent.v_min=-1e308": "agent.v_min=-1e+308: must be a number of 32 bits",
    "agent=rainbow agent.v_min=-3e38 agent.v_max=3e38": "v_min=-3e+38 and v_max=3e+38 are too far apart",
    "seed=1e-400": "seed=1e-400: must be an integer",
    "agent.ent_coef=1e-400": "agent.ent_coef=1e-400: must be a finite number",
    "run.dir=/": "run.dir=/: a run's files would lie among others",
    "run.dir=.": "run.dir=.: a run's files would lie among others",
    "run.dir=..": "run.dir=..: a run's files would lie among others",
    "device=4 --cfg job": "device=4: must be auto, cpu, cuda, cuda:N or mps",
    "evaluate last device=gpu": "device=gpu: must be auto, cpu, cuda, cuda:N or mps",
    "env=CartPole-v1 env.atari.frame_skip=2 --cfg job": "has no effect because env=CartPole-v1 is no Atari game",
    "--config-dir=": "--config-dir: its value is empty",
    "--cfg job --cfg job": "--cfg job: given twice",
    "": "words are key=value",
    "seed=\0": "holds a NUL character",
    "run.name=\udcff": "holds bytes that are not UTF-8",
    f"evaluate {'x' * 5_000}": "File name too long",
    f"resume {LONG}": "File name too long",
    f"runs {LONG}": "p: ",
    f"compare out={LONG}": "out=ppp",
    f"--config-dir {LONG}": "no such folder",
    "env=highway-fast-v0": "; one that another package registers is env=MODULE:highway-fast-v0",
    "env=gymnasium:CartPol-v1": "did you mean env=gymnasium:CartPole-v1?",
    "agent.net_arch=" + "[" * 3_000 + "]" * 3_000: "agent.net_arch=[[[",
}


@pytest.mark.parametrize("words", WRONG, ids=[words[:40].encode("unicode_escape").decode() for words in WRONG])
def test_odd_values_are_one_line(words: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    answer = command(*words.split(" "))
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("rlgym: ") and WRONG[words] in line and len(line) < 2_100
    assert list(tmp_path.iterdir()) == []


TOO_LARGE = {
    "env.num_envs=10000000000": r"env.num_envs=10000000000: that many take .* GB at least, and 10.0 GB are free",
    "env.num_envs=10000000000 env.backend=sync": "env.num_envs=10000000000: that many take ",
    "agent.net_arch=[1000000000]": r"agent.net_arch=\[1000000000\]: a part of it alone takes 16.0 GB, and 10.0 GB",
    "agent=sb3/dqn agent.net_arch=[1000000000]": r"agent.net_arch=\[1000000000\]: a part of it alone takes 16.0 GB",
    "agent.n_steps=10000000000": "agent.n_steps=10000000000: a part of it alone takes .* GB, and 10.0 GB are free",
    "agent=dqn agent.buffer_size=1000000000000": "agent.buffer_size=1000000000000: that many transitions of [0-9]+ ",
}


@pytest.mark.parametrize("words", TOO_LARGE)
def test_what_cannot_fit_is_refused_with_its_size(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**10))
    config = compose(["tuned=off", "device=cpu", *words.split()])
    with pytest.raises(RequestError, match=f"^{TOO_LARGE[words]}"):
        check_request(config)


def test_environments_that_cannot_fit_are_refused_before_all_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Games of an emulator, of which no size is known before some were made."""
    monkeypatch.setattr("rlgym.envs.sync.resident_memory", iter(range(0, 10**9, 10**6)).__next__)
    made = []

    def make() -> gym.Env[Any, Any]:
        made.append(gym.make("CartPole-v1"))
        return made[-1]

    with pytest.raises(MemoryError, match="takes .* GB"):
        SyncEnv("CartPole-v1", make, 10**7)
    assert len(made) < 100


def test_the_largest_number_that_was_given_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    faults: dict[str, Callable[[], Any]] = {
        "takes 8.0 GB, and 1.0 GB are free": lambda: require_memory(8e9),
        "a part of it alone takes 4.0 GB": lambda: torch.nn.Linear(1_000_000, 1_000),
        "is more than can be held": lambda: (_ for _ in ()).throw(MemoryError("no")),
        "is more than can be held .*overflow": lambda: torch.zeros(2**40, 2**40, device="meta"),
    }
    for said, make in faults.items():
        with pytest.raises(RequestError, match=rf"^b=\[7,9\]: {said}"), sizes_named({"a": 3, "b": [7, 9], "steps": 99}):
            make()
    with pytest.raises(ValueError, match="^another$"), sizes_named({"a": 3}):
        raise ValueError("another")
    with sizes_named({"a": 3}):
        torch.empty(10**12, device="meta")
    assert make_native("CartPole-v1", 4, {}).num_envs == 4


def test_words_of_a_device() -> None:
    assert read(GenerateOptions, ["device=cuda:1"])["device"] == "cuda:1"
    with pytest.raises(RequestError, match=re.escape("device=cuda:: must be auto, cpu, cuda, cuda:N or mps")):
        read(GenerateOptions, ["device=cuda:"])
