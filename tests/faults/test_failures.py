"""What goes wrong while a run is made, trained or continued, through the real commands (experience.md's faults)."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from rlgym.cli.main import main
from rlgym.run_folder import checkpoint
from tests.command.conftest import Answer
from tests.faults.helpers import start, wait_for

FAULTY = '''
import gymnasium as gym, numpy as np, os, time
from gymnasium import spaces

class Faulty(gym.Env):
    """Well-behaved for `after` steps of its life; then does `how`."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    render_mode = None

    def __init__(self, how="", after=100, render_mode=None):
        self.how, self.after, self.life = how, after, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t, self.life = self.t + 1, self.life + 1
        obs, reward = self.np_random.uniform(-1, 1, 2).astype(np.float32), 1.0
        if self.life > self.after:
            if self.how == "raise":
                raise ZeroDivisionError("the world\\nended")
            if self.how == "not_a_number":
                reward = float("nan")
            if self.how == "overflow":
                reward = 1e25
            if self.how == "space":
                obs = np.array([0.0, 7.0], np.float32)
            if self.how == "interrupt":
                raise KeyboardInterrupt
            if self.how == "global":
                obs = np.random.uniform(-1, 1, 2).astype(np.float32)
            if self.how == "slow":
                time.sleep(0.01)
        return obs, reward, self.t == 7, False, {}

gym.register("Faulty-v0", Faulty)
'''
SMALL = ["agent.n_steps=8", "agent.batch_size=16", "env.num_envs=2", "evaluate.episodes=2", "agent.net_arch=[8]"]
"""An update is 16 steps."""
FAULTY_RUN = [
    "env=faulty:Faulty-v0",
    "steps=2000",
    "checkpoint.every=64",
    "evaluate.every=64",
    "log.every=64",
    *SMALL,
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that holds an environment which goes wrong, and is the current one."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("faulty", None)
    import gymnasium as gym

    gym.registry.pop("Faulty-v0", None)


@pytest.fixture
def rlgym(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command in this process."""

    def run(*words: str) -> Answer:
        capsys.readouterr()
        code = main(list(words))
        written = capsys.readouterr()
        return Answer(code, written.out, written.err)

    return run


def failed(answer: Answer, run: Path, said: str, least: int = 64) -> None:
    """Exit 3, one line, and everything up to the last checkpoint sound."""
    assert answer.code == 3, answer.err
    (line,) = [line for line in answer.err.splitlines() if line.startswith("rlgym: ")]
    assert said in line
    summary = json.loads((run / "summary.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    assert summary["status"] == manifest["status"] == "failed" and said in summary["reason"]
    log = (run / "log.txt").read_text()
    assert "Traceback" in log and "TrainingError" in log
    newest = checkpoint.newest(run, print)
    state, _ = checkpoint.load(newest)
    assert state["progress"]["step"] >= least
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


# ---- fault 6: nowhere to write


@pytest.mark.parametrize("where", ["run.dir=taken/run", "run.dir=taken", "runs"])
def test_an_unwritable_place_is_refused_before_training(where: str, rlgym: Callable[..., Answer], here: Path) -> None:
    """A file stands where a folder must be: not even root can write there."""
    (here / ("runs" if where == "runs" else "taken")).write_text("a file")
    before = sorted(here.rglob("*.*")) + sorted(here.iterdir())
    answer = rlgym("env=CartPole-v1", "steps=1000", *([] if where == "runs" else [where]))
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("rlgym: run") and "cannot be written" in line and "run.dir=" in line
    assert sorted(here.rglob("*.*")) + sorted(here.iterdir()) == before


# ---- faults 11 and 12: numbers and environments that go wrong in mid-training

SAID = {
    "not_a_number": "faulty:Faulty-v0: environment 0 returned the reward nan",
    "interrupt": "KeyboardInterrupt was raised, and not by Ctrl-C",
    "raise": "faulty:Faulty-v0: step of environment 0 raised ZeroDivisionError: the world ended",
}


@pytest.mark.parametrize("how", SAID)
def test_a_faulty_environment_is_named(how: str, rlgym: Callable[..., Answer], here: Path) -> None:
    run = here / "run"
    answer = rlgym(*FAULTY_RUN, "env.backend=sync", f"+env.kwargs.how={how}", f"run.dir={run}", "display=quiet")
    failed(answer, run, SAID[how])
    assert len(answer.err.splitlines()) == 1
    if how == "raise":
        log = (run / "log.txt").read_text()
        assert 'faulty.py", line' in log and "in step" in log, "where in the environment it happened"
    # what was trained until then can be used, and a resume meets the same fault again
    assert rlgym("evaluate", str(run), "episodes=2", "trust=true").code == 0
    again = rlgym("resume", str(run), "trust=true", "display=quiet")
    failed(again, run, SAID[how])


def test_a_bound_that_is_left_costs_no_training(rlgym: Callable[..., Answer], here: Path) -> None:
    run = here / "run"
    words = ["env.backend=sync", "+env.kwargs.how=space", "checkpoint.every=0", f"run.dir={run}", "display=quiet"]
    assert rlgym(*FAULTY_RUN[:1], "steps=512", *SMALL, *words).code == 0
    said = "observation obs[1] of environment 0 is 7.0, above its declared bound 1.0; said once, training goes on"
    assert (run / "log.txt").read_text().count(said) == 1
    assert json.loads((run / "summary.json").read_text())["steps"] == 512


def test_a_non_finite_loss_names_the_step_and_is_never_best(rlgym: Callable[..., Answer], here: Path) -> None:
    """Rewards so large that their squared error overflows, from step 201 of the run on."""
    run = here / "run"
    answer = rlgym(*FAULTY_RUN, "env.backend=sync", "+env.kwargs.how=overflow", f"run.dir={run}", "display=quiet")
    failed(answer, run, "non-finite loss or gradient at step 208 (update 13)", least=192)
    assert len(answer.err.splitlines()) == 1
    best = checkpoint.best(run)
    assert best is not None and int(best.name[5:]) <= 192
    assert max(checkpoint.steps(run)) == 192
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 192 and all(v is None or abs(v) < 1e20 for row in rows for v in row.values())


def test_a_worker_that_raises_leaves_nobody_behind(here: Path) -> None:
    """Fault 12 with worker processes, from a shell."""
    run = here / "run"
    words = [*FAULTY_RUN, "env.backend=async", "+env.kwargs.how=raise", f"run.dir={run}", "display=plain"]
    process = start(*words, cwd=here)
    out, err = process.communicate(timeout=120)
    failed(Answer(process.returncode, out, err), run, SAID["raise"])
    assert "in step" in (run / "log.txt").read_text(), "the worker's own traceback"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_resume_that_lost_episodes_is_not_called_exact(
    rlgym: Callable[..., Answer], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment on NumPy's global generator, which the probe of the first checkpoint took for restorable."""
    from rlgym.envs.sync import SyncEnv

    monkeypatch.setattr(SyncEnv, "try_restore", lambda env: "exact")
    own = ["+env.kwargs.how=global", "+env.kwargs.after=0", "env.backend=sync", "steps=32", "display=quiet"]
    words = [word for word in FAULTY_RUN if not word.startswith("steps")]
    assert rlgym(*words, *own, "run.dir=run").code == 0
    exact = json.loads((here / "run/manifest.json").read_text())["resume"]["environment"]
    assert rlgym("resume", "run", "steps=64", "trust=true", "display=quiet").code == 0
    after = json.loads((here / "run/manifest.json").read_text())["resume"]["environment"]
    lost = "faulty:Faulty-v0: 2 of 2 running episodes could not be restored and start over"
    assert (exact, after) == ("exact", f"not exact: {lost}")
    monkeypatch.setattr(SyncEnv, "load_state_dict", lambda env, state: env.reset(0))  # one that loses nothing
    assert rlgym("resume", "run", "steps=96", "trust=true", "display=quiet").code == 0
    assert json.loads((here / "run/manifest.json").read_text())["resume"]["environment"] == after


# ---- fault 13


def test_a_killed_worker_is_detected_within_seconds(here: Path) -> None:
    run = here / "run"
    words = [*FAULTY_RUN, "env.backend=async", "+env.kwargs.how=slow", f"run.dir={run}", "display=quiet"]
    process = start(*words, cwd=here)
    wait_for(run / "checkpoints" / "latest", process)
    workers = psutil.Process(process.pid).children()
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    failed(Answer(process.returncode, out, err), run, "faulty:Faulty-v0: the worker process of environments 0-")
    assert "was killed by SIGKILL" in err
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


# ---- faults 16 and 18: a run folder that was changed


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("template") / "run"
    assert main(["env=CartPole-v1", "steps=64", *SMALL, f"run.dir={run}", "display=quiet"]) == 0
    return run


@pytest.fixture
def trained(template: Path, here: Path) -> Path:
    """A finished run of 64 steps."""
    return Path(shutil.copytree(template, here / "trained"))


def edit(run: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    data = yaml.safe_load((run / "config.yaml").read_text())
    change(data)
    (run / "config.yaml").write_text(yaml.safe_dump(data))


COMMANDS = (["resume", "steps=128"], ["evaluate", "episodes=1"], ["play"])


def refused(rlgym: Callable[..., Answer], run: Path, words: list[str], *said: str) -> None:
    """Exit 2, one line, and the run as it was."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    answer = rlgym(words[0], str(run), *words[1:])
    assert (answer.code, answer.out) == (2, ""), answer
    (line,) = answer.err.splitlines()
    assert line.startswith("rlgym: ")
    for part in said:
        assert part in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_another_architecture_names_the_tensors_that_differ(trained: Path, rlgym: Callable[..., Answer]) -> None:
    edit(trained, lambda data: data["agent"].update(net_arch=[9]))
    for words in COMMANDS:
        refused(rlgym, trained, words, "actor.0.weight ([8, 4] saved, [9, 4] by the config)", "critic.2.weight")
    edit(trained, lambda data: data["agent"].update(net_arch=[8, 8]))
    for words in COMMANDS:
        refused(rlgym, trained, words, "actor.4.weight (only in the config's network)")
    edit(trained, lambda data: data["agent"].update(net_arch=[8]))
    assert rlgym("resume", str(trained), "steps=128", "display=quiet").code == 0


def test_another_number_of_environments_is_refused(trained: Path, rlgym: Callable[..., Answer]) -> None:
    edit(trained, lambda data: data["env"].update(num_envs=3))
    refused(rlgym, trained, ["resume", "steps=128"], "env.num_envs=3: the checkpoint holds 2 running environments")
    edit(trained, lambda data: data["env"].update(num_envs=2, backend="sync"))
    refused(rlgym, trained, ["resume", "steps=128"], "does not fit its config.yaml")


def test_a_manifest_that_cannot_be_written_leaves_the_config(trained: Path, rlgym: Callable[..., Answer]) -> None:
    (trained / "manifest.json").unlink()
    (trained / "manifest.json").mkdir()
    refused(rlgym, trained, ["resume", "steps=128"], "cannot be written")


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_for_weights_is_not_opened(trained: Path, rlgym: Callable[..., Answer], here: Path) -> None:
    """Its checksum is made to fit: a folder from elsewhere is consistent in itself."""
    canary = here / "canary"
    for folder in (trained / "checkpoints").glob("step_*"):
        (folder / "model.safetensors").write_bytes(content := pickle.dumps(Canary(canary)))
        manifest = json.loads((folder / "manifest.json").read_text())
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        manifest["files"]["model.safetensors"] = entry
        (folder / "manifest.json").write_text(json.dumps(manifest))
    for words in COMMANDS:
        refused(rlgym, trained, [*words, "trust=true"], "model.safetensors")
    assert not canary.exists()


def test_a_call_in_the_config_is_not_made(trained: Path, rlgym: Callable[..., Answer], here: Path) -> None:
    canary = here / "canary"
    call = {"_target_": "pathlib.Path.touch", "self": str(canary)}
    edit(trained, lambda data: data["env"].update(kwargs={"render_mode": call}))
    for words in (*COMMANDS, ["rerun"]):
        refused(rlgym, trained, [*words, "trust=true"], "_target_")
    assert not canary.exists()


def test_a_missing_checkpoint_is_named_with_those_there_are(trained: Path, rlgym: Callable[..., Answer]) -> None:
    refused(rlgym, trained, ["evaluate", "checkpoint=7"], "checkpoint=7", "64")


def test_a_spent_budget_says_how_to_go_on(trained: Path, rlgym: Callable[..., Answer]) -> None:
    refused(rlgym, trained, ["resume"], "64/64 steps are done", "steps=128")
