"""`export RUN` of a policy as a person types it, and what a person then does with the folder."""

from __future__ import annotations

import io
import json
import re
import runpy
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rlgym
from rlgym.cli.main import main
from rlgym.errors import RequestError
from tests.command.conftest import Answer

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SMALL = ["tuned=off", "steps=256", "agent.n_steps=64", "agent.batch_size=64", "env.num_envs=2", "evaluate.episodes=1"]
RUNS = {  # words of train; of export
    "CartPole-v1": (["checkpoint.every=128"], ["checkpoint=128"]),
    "Pendulum-v1": (["env.normalize_observation=true", "agent.squash=true"], []),
}


@dataclass
class Exported:
    run: Path
    target: Path
    policy: Any
    answer: Answer


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Each run, and what `python -m rlgym export RUN` left."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for id, (words, more) in RUNS.items():
        run = folder / id
        rlgym.train(f"env={id}", *SMALL, *words, "display=quiet", f"run.dir={run}")
        (run / "export").mkdir()  # what an earlier export left
        (run / "export" / "policy.json").write_text("{}")
        (run / "export" / "old.onnx").write_bytes(b"")
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["export", str(run), *more])
        policy = rlgym.load(run, "128" if more else "best")
        found[id] = Exported(run, run / "export", policy, Answer(code, out.getvalue(), err.getvalue()))
    return found


@pytest.mark.parametrize("id", RUNS)
def test_an_export_acts_as_evaluate_and_play_do(id: str, exported: dict[str, Exported]) -> None:
    run, target, answer = exported[id].run, exported[id].target, exported[id].answer
    policy = exported[id].policy
    assert (answer.code, answer.err) == (0, "")
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "policy.json", "policy.onnx", "policy.pt2"]
    told = (
        rf"written to {re.escape(str(target))}: policy.onnx and policy.pt2, equal to the policy to (\S+) on 256 random"
    )
    found = re.match(told, answer.out)
    assert found is not None and float(found[1]) <= 1e-5 and len(answer.out.splitlines()) == 1

    assert not list(run.glob(".export-*")), "nothing is left beside it"

    session = onnxruntime.InferenceSession(target / "policy.onnx")
    env = gym.make(id)
    observation, _ = env.reset(seed=5)
    for _ in range(40):
        action, _ = session.run(None, {"obs": observation[None]})
        assert env.action_space.contains(action[0])
        np.testing.assert_allclose(action[0], policy.predict(observation), rtol=1e-5, atol=1e-5)
        observation, _, terminated, truncated, _ = env.step(action[0])
        if terminated or truncated:
            observation, _ = env.reset()


@pytest.mark.parametrize("id", RUNS)
def test_the_lines_of_the_readme_run_as_they_stand(
    id: str, exported: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (exported[id].target / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(exported[id].target)
    observation, _ = gym.make(id).reset(seed=2)
    wanted = exported[id].policy.predict(observation)
    for number, block in enumerate(blocks):
        assert len([line for line in block.splitlines() if not line.startswith("import")]) <= 3
        script = tmp_path / f"block{number}.py"
        script.write_text(block)
        found: dict[str, Any] = runpy.run_path(str(script), {"observation": observation})
        np.testing.assert_allclose(found["action"][0], wanted, rtol=1e-5, atol=1e-5)


def test_the_description_says_what_it_is(exported: dict[str, Exported]) -> None:
    found = json.loads((exported["Pendulum-v1"].target / "policy.json").read_text())
    (observed,), (action, outputs) = found["inputs"], found["outputs"]
    assert (observed["name"], observed["dtype"], observed["shape"]) == ("obs", "float32", ["batch", 3])
    assert (action["name"], action["dtype"], action["shape"]) == ("action", "float32", ["batch", 1])
    assert (outputs["shape"], "before tanh" in outputs["kind"]) == (["batch", 2], True)
    assert (found["agent"], found["environment"]["id"]) == ("ppo", "Pendulum-v1")
    assert found["environment"]["normalize_observation"] is True
    assert found["observation_space"].startswith("Box(") and "(1,)" in found["action_space"]
    assert {"torch", "onnx", "onnxscript", "gymnasium"} <= found["versions"].keys()
    assert found["checked"]["observations"] == 256 and found["checked"]["largest_difference"] <= 1e-5
    assert found["run"]["command"][:2] == ["rlgym", "train"]


def test_the_checkpoint_that_is_asked_for(exported: dict[str, Exported]) -> None:
    run = exported["CartPole-v1"]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    outputs = onnxruntime.InferenceSession(run.target / "policy.onnx").run(["outputs"], {"obs": x})[0]
    np.testing.assert_allclose(outputs, run.policy.outputs({"obs": x}, None), atol=1e-5)
    assert np.abs(outputs - rlgym.load(run.run, "256").outputs({"obs": x}, None)).max() > 1e-4


def test_what_cannot_be_exported_is_one_line_and_writes_nothing(
    exported: dict[str, Exported], command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlgym.agents.export import policy

    run = str(exported["CartPole-v1"].run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")

    def refused(*words: str) -> str:
        before = sorted(path for path in tmp_path.rglob("*"))
        answer = command("export", run, *words)
        assert (answer.code, answer.out) == (2, "") and len(answer.err.splitlines()) == 1, answer
        assert sorted(path for path in tmp_path.rglob("*")) == before
        return answer.err

    assert "holds something else than an export" in refused(f"path={tmp_path / 'mine'}")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    assert "checkpoint=7: " in refused("checkpoint=7")
    assert "unknown key pth - did you mean path?" in refused("pth=x")

    def fails(policy: Any, folder: Path, masked: bool) -> None:
        (folder / "policy.onnx").write_bytes(b"half of it")
        raise RequestError("export: policy.onnx is not the policy of this run")

    with monkeypatch.context() as patch:
        patch.setattr(policy, "write_policy", fails)
        assert "policy.onnx is not the policy of this run" in refused(f"path={tmp_path / 'new'}")
    with monkeypatch.context() as patch:
        patch.setattr(policy, "find_spec", lambda name: None)
        assert 'export needs onnx and onnxscript, not installed: pip install "rlgym-ssl[export]"' in refused()
