"""Runs that learn from a replay, killed and resumed: bit for bit with it, and in plain words without it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlgym.cli.main import main
from rlgym.run_folder import checkpoint
from tests.command.conftest import Answer
from tests.faults.helpers import rows, start, states, tensors, wait_for

SMALL = [
    "env.num_envs=2", "agent.learning_starts=200", "agent.batch_size=16",
    "agent.net_arch=[16]", "log.every=500", "evaluate.every=0", "evaluate.episodes=2", "tuned=off", "display=quiet",
]  # fmt: skip
CASES = {
    "dqn": ["agent=dqn", "env=CartPole-v1", "agent.prioritized=true", "agent.n_step=3"],
    "rainbow": ["agent=rainbow", "env=CartPole-v1"],
    "sac": ["agent=sac", "env=Pendulum-v1", "agent.train_freq=2", "agent.gradient_steps=1"],
    "td3": [
        *("agent=td3", "env=Pendulum-v1", "agent.train_freq=2", "agent.gradient_steps=1"),
        *("agent.n_step=3", "env.normalize_observation=true"),
    ],
}


def shared(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "checkpoints" / "shared").iterdir()}


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_uninterrupted(case: str, tmp_path: Path) -> None:
    """The replay has gone around before the kill and does after it; priorities and segments are compared too."""
    words = [*CASES[case], *SMALL, "steps=1000", "checkpoint.every=500", "agent.buffer_size=300"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main([*words, f"run.dir={straight}"]) == 0
    killed = start(*words, f"run.dir={broken}", cwd=tmp_path)
    wait_for(broken / "checkpoints" / "step_500", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (broken / "summary.json").exists(), "the run had ended before it was killed: make its budget larger"
    assert main(["resume", str(broken), "display=quiet"]) == 0
    expected, found = (tensors(run / "checkpoints" / "step_1000") for run in (straight, broken))
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
    assert states(straight / "checkpoints" / "step_1000") == states(broken / "checkpoints" / "step_1000")
    assert rows(straight) == rows(broken)
    assert shared(straight) == shared(broken), "segments bear the names of their content"
    assert ("replay.safetensors:priorities" in expected) == (case in ("dqn", "rainbow"))
    assert json.loads((broken / "manifest.json").read_text())["resume"]["replay"] == "exact"


# ---- a replay that is damaged, or not there


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("template") / "run"
    assert main([*CASES["dqn"], *SMALL, "agent.buffer_size=1000", "steps=600", f"run.dir={run}"]) == 0
    return run


@pytest.fixture
def trained(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "trained"))


@pytest.fixture
def rlgym(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def run(*words: str) -> Answer:
        capsys.readouterr()
        code = main(list(words))
        written = capsys.readouterr()
        return Answer(code, written.out, written.err)

    return run


@pytest.mark.parametrize("fault", ["flipped", "missing", "tail"])
def test_a_damaged_replay_is_named_and_left_out_only_when_asked(
    fault: str, trained: Path, rlgym: Callable[..., Answer]
) -> None:
    damaged = trained / "checkpoints" / "step_600" / "replay.safetensors"
    if fault != "tail":
        damaged = sorted((trained / "checkpoints" / "shared").iterdir())[3]
    content = damaged.read_bytes()
    damaged.unlink()
    if fault != "missing":
        damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}

    answer = rlgym("resume", str(trained), "steps=900")
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert damaged.name in line and ("missing" if fault == "missing" else "altered") in line
    assert "replay=false" in line
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before, "nothing was written"
    # who uses the finished policy does not notice
    assert rlgym("evaluate", str(trained), "episodes=1").code == 0

    answer = rlgym("resume", str(trained), "steps=900", "replay=false", "display=plain")
    assert answer.code == 0 and "learns nothing until it has gathered 200 transitions" in answer.out + answer.err
    assert json.loads((trained / "manifest.json").read_text())["without_replay"] == [600]
    state, _ = checkpoint.load(checkpoint.newest(trained, print))
    assert state["replay"]["written"] == [150, 150] and state["pace"]["learns_from"] == 800
    losses = [row["step"] for row in rows(trained) if "train/loss" in row and row["step"] > 600]
    assert losses and min(losses) > 800, "no gradient step before the replay holds what it needs"
    assert rlgym("resume", str(trained), "steps=1000", "display=quiet").code == 0, "and from there with it again"


def test_a_replay_may_be_left_out_of_checkpoints(tmp_path: Path, rlgym: Callable[..., Answer]) -> None:
    run = tmp_path / "run"
    words = [*CASES["dqn"], *SMALL, "agent.buffer_size=1000", "steps=600", f"run.dir={run}"]
    assert rlgym(*words, "agent.save_replay=false").code == 0
    assert not (run / "checkpoints" / "shared").exists()
    assert not (run / "checkpoints" / "step_600" / "replay.safetensors").exists()
    said = json.loads((run / "manifest.json").read_text())["resume"]["replay"]
    assert "left out by agent.save_replay=false" in said and "gathered 200 transitions" in said
    answer = rlgym("resume", str(run), "steps=900", "display=plain")
    assert answer.code == 0 and "learns nothing until it has gathered 200 transitions" in answer.out + answer.err


def test_a_run_without_a_replay_takes_no_such_word(tmp_path: Path, rlgym: Callable[..., Answer]) -> None:
    run = tmp_path / "run"
    words = ["env=CartPole-v1", "steps=64", "agent.n_steps=8", "agent.batch_size=16", "env.num_envs=2", "tuned=off"]
    assert rlgym(*words, "evaluate.episodes=1", "display=quiet", f"run.dir={run}").code == 0
    answer = rlgym("resume", str(run), "steps=128", "replay=false")
    assert answer.code == 2 and answer.err.startswith("rlgym: replay=false: ") and "no replay" in answer.err


def test_a_running_episode_that_is_lost_is_cut_off(tmp_path: Path, rlgym: Callable[..., Answer]) -> None:
    """An environment that tells no state starts over on a resume; the replay holds no step from one to the other."""
    run = tmp_path / "run"
    words = ["agent=dqn", "env=CartPole-v1", *SMALL, "agent.buffer_size=1000", "steps=600", f"run.dir={run}"]
    assert rlgym(*words).code == 0
    before, _ = checkpoint.load(checkpoint.newest(run, print))
    assert not before["replay"]["tail.done"][-1], "an episode is running, else this shows nothing"
    # As VectorEnv does: its episodes start over.
    from rlgym.envs.native import NativeEnv

    def start_over(self: NativeEnv, section: object) -> object:
        self.restore_report = "CartPole-v1: running episodes start over"
        return self.reset(99)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeEnv, "load_state_dict", start_over)
        answer = rlgym("resume", str(run), "steps=602", "display=plain")
    assert answer.code == 0 and "start over" in answer.out + answer.err
    after, _ = checkpoint.load(checkpoint.newest(run, print))
    tail = {key.removeprefix("tail."): x for key, x in after["replay"].items() if key.startswith("tail.")}
    since = tail["last"][0] - 300
    counts = (tail["last"] - tail["first"]).tolist()
    for lane in range(2):
        cut = sum(counts[: lane + 1]) - int(since) - 1  # the last transition before the resume
        assert tail["done"][cut] and not tail["terminated"][cut]
        (at,) = (tail["final_of"] == cut).nonzero().flatten().tolist()
        assert torch.equal(tail["final.obs"][at], before["replay"]["standing.obs"][lane]), "where it stood"
        assert not torch.equal(tail["obs.obs"][cut + 1], before["replay"]["standing.obs"][lane])
