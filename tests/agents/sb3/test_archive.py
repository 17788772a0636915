"""Archives saved by Stable-Baselines3 itself: evaluated, played, refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.env_util import make_vec_env

from rlgym.agents.sb3.learner import ALGORITHMS
from rlgym.cli.main import main
from tests.agents.sb3.small import learner, train


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "model.zip"
    sb3 = learner("ppo", steps=64)
    train(sb3, 64)
    venv: Any = make_vec_env("CartPole-v1")
    build: Any = ALGORITHMS["ppo"]
    theirs = build("MlpPolicy", venv, n_steps=16, batch_size=16, device="cpu")
    theirs.policy.load_state_dict(sb3.model.policy.state_dict())
    theirs.save(path)
    return path


def test_an_archive_is_evaluated(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate",
        str(archive),
        "env=CartPole-v1",
        "algo=ppo",
        "trust=true",
        "episodes=4",
        "device=cpu",
        "seed=7",
    ]
    assert main(words) == 0
    assert "over 4 fresh episodes" in capsys.readouterr().out
    (written,) = (archive.parent / "model" / "evaluations").iterdir()
    found = json.loads(written.read_text())
    build: Any = ALGORITHMS["ppo"]
    theirs = build.load(archive, device="cpu")
    for i, episode in enumerate(found["episodes"]):
        env = gym.make("CartPole-v1")
        obs, _ = env.reset(seed=7 + i)
        steps, over = 0, False
        while not over:
            obs, _, terminated, truncated, _ = env.step(theirs.predict(obs, deterministic=True)[0])
            steps, over = steps + 1, terminated or truncated
        assert episode["length"] == steps


WRONG: dict[str, str] = {
    "": "env= is missing",
    "env=CartPole-v1": "algo= is missing",
    "env=CartPole-v1 algo=ppo": "is a pickle: reading it can run any code that its maker put in; add trust=true",
    "env=CartPole-v1 algo=pp0": "algo=pp0: must be one of ppo, a2c, dqn, sac, td3 - did you mean algo=ppo?",
    "env=CartPoel-v1 algo=ppo trust=true": "did you mean env=CartPole-v1?",
    "env=Acrobot-v1 algo=ppo trust=true": "env=Acrobot-v1: the model in",
    "env=CartPole-v1 algo=sac trust=true": "agent=sb3/sac acts in a bounded Box of floats",
    "env=CartPole-v1 algo=dqn trust=true": "cannot be read as algo=dqn",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_for_an_archive(
    words: str, archive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "trust" not in words:
        monkeypatch.setattr("cloudpickle.loads", lambda *_: pytest.fail("was unpickled"))
    assert main(["play", str(archive), *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert WRONG[words] in line


def test_what_is_no_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, other = tmp_path / "text.zip", tmp_path / "other.zip"
    text.write_text("no zip")
    with zipfile.ZipFile(other, "w") as content:
        content.writestr("a", "b")
    for path, said in (
        (text, "not a zip file"),
        (other, "cannot be read as algo=ppo"),
        (tmp_path / "none.zip", "no such file"),
    ):
        assert main(["evaluate", str(path), "env=CartPole-v1", "algo=ppo", "trust=true"]) == 2
        assert said in capsys.readouterr().err
    assert main(["generate", str(other)]) == 2
    assert "is an archive: evaluate, play" in capsys.readouterr().err
