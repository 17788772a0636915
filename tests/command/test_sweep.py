"""`-m`: jobs are checked before the first starts, the others finish when one fails, the worst code is the answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rlgym.config.schema import TrainConfig
from rlgym.errors import RequestError, TrainingError
from tests.command.conftest import Answer


class FakeTrain(ModuleType):
    """Stands for rlgym.training.train: what each seed does is said by `ends`."""

    def __init__(self) -> None:
        super().__init__("rlgym.training.train")
        self.ends: dict[int, int | Exception] = {}
        self.wrong: set[int] = set()
        self.checked: list[int] = []
        self.trained: list[TrainConfig] = []

    def check_request(self, config: TrainConfig) -> None:
        assert not self.trained
        self.checked.append(config.seed)
        if config.seed in self.wrong:
            raise RequestError(f"seed={config.seed}: no good")

    def run_training(self, config: TrainConfig, command: list[str]) -> Any:
        assert command[0] == "rlgym"
        self.trained.append(config)
        end = self.ends.get(config.seed, 0)
        if isinstance(end, Exception):
            raise end
        final = {"rollout/ep_rew_mean": 3.0, "eval/rating": 100.0 * config.seed}
        manifest = {"monitor": ["eval/rating", "max"]}
        folder = Path(f"runs/seed{config.seed}")
        return SimpleNamespace(exit_code=end, dir=folder, manifest=manifest, summary={"final": final})


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> FakeTrain:
    fake = FakeTrain()
    monkeypatch.setitem(sys.modules, "rlgym.training.train", fake)
    return fake


@pytest.mark.parametrize(
    "words", [["-m", "train", "seed=1,2"], ["train", "-m", "seed=1,2"], ["seed=1,2", "--multirun"]]
)
def test_flag_before_or_after_the_command(words: list[str], command: Callable[..., Answer], train: FakeTrain) -> None:
    answer = command(*words)
    assert answer.code == 0, answer.err
    assert [config.seed for config in train.trained] == [1, 2]


def test_jobs_train_what_their_words_say(command: Callable[..., Answer], train: FakeTrain, tmp_path: Path) -> None:
    answer = command("-m", "env=CartPole-v1,Acrobot-v1", "seed=1,2", "steps=1e4", "env.kwargs.x=3")
    got = [(c.env.id, c.seed, c.steps, c.env.kwargs) for c in train.trained]
    assert got == [(env, seed, 10_000, {"x": 3}) for env in ("CartPole-v1", "Acrobot-v1") for seed in (1, 2)]
    assert train.trained[0].agent != train.trained[2].agent  # each with the tuned values of its env
    assert [line.split()[-4:] for line in answer.out.splitlines()[1:]] == [
        [f"runs/seed{seed}", "0", "eval/rating", f"{100 * seed}"] for seed in (1, 2, 1, 2)
    ]
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []  # Hydra wrote nothing of its own


def test_nothing_starts_when_one_request_is_wrong(
    command: Callable[..., Answer], train: FakeTrain, tmp_path: Path
) -> None:
    train.wrong = {3}
    answer = command("-m", "seed=1,2,3")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "rlgym: seed=3: no good (in job seed=3)\n"
    assert train.checked == [1, 2, 3] and train.trained == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [TrainingError("env broke"), ZeroDivisionError("a bug"), RequestError("late")])
def test_others_finish_and_the_worst_code_is_the_answer(
    fault: Exception, command: Callable[..., Answer], train: FakeTrain
) -> None:
    train.ends = {1: fault}
    answer = command("-m", "seed=1,2")
    assert answer.code == getattr(fault, "exit_code", 1)
    assert [config.seed for config in train.trained] == [1, 2]
    assert str(fault) in answer.err
    rows = answer.out.splitlines()
    assert rows[1].split() == ["1", "seed=1", "-", str(answer.code), "-", "-"]
    assert rows[2].split() == ["2", "seed=2", "runs/seed2", "0", "eval/rating", "200"]


@pytest.mark.parametrize("code", [130, 143])
def test_an_interrupted_job_ends_the_sweep(code: int, command: Callable[..., Answer], train: FakeTrain) -> None:
    train.ends = {2: code}
    answer = command("-m", "seed=1,2,3")
    assert answer.code == code
    assert [config.seed for config in train.trained] == [1, 2]
    assert "not started" in answer.out.splitlines()[3]


def test_one_folder_for_several_jobs_is_refused(command: Callable[..., Answer], train: FakeTrain) -> None:
    answer = command("-m", "seed=1,2", "run.dir=here")
    assert answer.code == 2 and "run.dir=here: one folder for several jobs" in answer.err
    assert train.trained == []
    assert command("-m", "run.dir=here,there").code == 0


def test_hydra_words_reach_the_launcher(command: Callable[..., Answer], train: FakeTrain) -> None:
    answer = command("-m", "seed=1,2", "hydra/launcher=no_such_launcher")
    assert answer.code == 2 and "hydra/launcher/no_such_launcher" in answer.err
    assert train.trained == []
    assert command("-m", "seed=1,2", "hydra/launcher=basic").code == 0
    assert [config.seed for config in train.trained] == [1, 2]


def test_ones_own_folder_and_agent_in_a_sweep(command: Callable[..., Answer], train: FakeTrain, tmp_path: Path) -> None:
    (tmp_path / "own/env").mkdir(parents=True)
    (tmp_path / "own/env/windy.yaml").write_text("id: CartPole-v1\n")
    answer = command("-m", "env=windy,Acrobot-v1", "--config-dir", "own")
    assert answer.code == 0, answer.err
    assert [config.env.id for config in train.trained] == ["CartPole-v1", "Acrobot-v1"]


def test_cfg_job_prints_each_job_and_trains_none(
    command: Callable[..., Answer], train: FakeTrain, tmp_path: Path
) -> None:
    answer = command("-m", "seed=1,2", "--cfg", "job")
    assert answer.code == 0
    assert [line for line in answer.out.splitlines() if line.startswith("seed:")] == ["seed: 1", "seed: 2"]
    assert train.trained == [] and list(tmp_path.iterdir()) == []


# ---- jobs=N


@pytest.mark.parametrize("wrong", ["0", "two", "", "-1", "1.5"])
def test_how_many_jobs(wrong: str, command: Callable[..., Answer], train: FakeTrain) -> None:
    answer = command("-m", "seed=1,2", f"jobs={wrong}")
    assert answer.code == 2 and f"jobs={wrong}: must be a whole number of processes" in answer.err
    assert train.trained == []


def test_one_job_at_a_time_is_as_before(command: Callable[..., Answer], train: FakeTrain) -> None:
    assert command("-m", "seed=1,2", "jobs=1").code == 0
    assert [(config.seed, config.threads) for config in train.trained] == [(1, None), (2, None)]


def test_jobs_and_a_launcher_are_two_ways(command: Callable[..., Answer], train: FakeTrain) -> None:
    answer = command("-m", "seed=1,2", "jobs=2", "hydra/launcher=basic")
    assert answer.code == 2 and "hydra/launcher=basic: jobs=2 starts its own processes" in answer.err


def test_jobs_beside_each_other_have_one_thread_each(command: Callable[..., Answer], train: FakeTrain) -> None:
    words = ["-m", "seed=1,2", "jobs=2", "--cfg", "job"]
    assert command(*words).out.count("threads: 1\n") == 2
    assert command(*words, "threads=3").out.count("threads: 3\n") == 2


def test_two_jobs_at_once_and_the_worst_code(shell: Callable[..., Answer], tmp_path: Path) -> None:
    """Four real runs; the environment of one breaks, and the process of one is killed."""
    (tmp_path / "faulty.py").write_text(
        "import os, signal\nimport gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Faulty(CartPoleEnv):\n"
        "    def __init__(self, fault='', **more):\n"
        "        super().__init__(**more); self.fault, self.count = fault, 0\n"
        "    def step(self, action):\n        self.count += 1\n        if self.count == 20:\n"
        "            if self.fault == 'break': raise ValueError('worn out')\n"
        "            if self.fault == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().step(action)\n"
        "gym.register('Faulty-v0', Faulty, max_episode_steps=100)\n"
    )
    words = ["env=faulty:Faulty-v0", "steps=128", "env.num_envs=2", "agent.n_steps=32", "agent.batch_size=32"]
    words += ["evaluate.episodes=1", "agent.n_epochs=1", "env.backend=sync", "env.kwargs.fault=none,break,kill,fine"]
    answer = shell("-m", *words, "jobs=2", timeout=200)
    assert answer.code == 3, answer.err
    rows = [line.split() for line in answer.out.splitlines()[1:]]
    assert [(row[0], row[-3]) for row in rows] == [("1", "0"), ("2", "3"), ("3", "1"), ("4", "0")]
    assert "job 3: its process was ended by SIGKILL" in answer.err and "worn out" in answer.err
    statuses = sorted(status_of(folder) for folder in (tmp_path / "runs").iterdir())
    assert statuses == ["failed", "finished", "finished", "running"]


def status_of(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["status"])
