"""The commands a person types, one after the other, and what each leaves in the run folder (design.md's contract)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import rlgym
from rlgym.config.schema import EnvConfig
from rlgym.envs.episodes import evaluate_policy
from rlgym.envs.make import make_env
from rlgym.errors import RequestError
from rlgym.run_folder import checkpoint
from tests.command.conftest import Answer
from tests.faults.helpers import command as shell
from tests.faults.helpers import rows

WORDS = ["agent=ppo", "env=CartPole-v1", "seed=3", "steps=2048", "tuned=off", "evaluate.episodes=5"]
EVERY = ["log.every=500", "evaluate.every=1024", "checkpoint.every=1024", "evaluate.video=true"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder, stdout and stderr of `python -m rlgym agent=ppo env=CartPole-v1 ...`."""
    here = tmp_path_factory.mktemp("trained")
    code, out, err = shell(*WORDS, *EVERY, cwd=here)
    assert code == 0, err
    (run,) = (here / "runs").iterdir()
    return run, out, err


@pytest.fixture
def run(trained: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(trained[0].parent.parent)
    return trained[0]


# ---- train


def test_every_file_of_the_contract(run: Path) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_ppo_CartPole-v1_s3", run.name)
    names = {"events" if p.name.startswith("events.out.tfevents.") else p.name for p in run.iterdir()}
    files = {"config.yaml", "manifest.json", "metrics.jsonl", "events", "summary.json", "log.txt"}
    assert names == files | {"checkpoints", "evaluations", "videos", "plots"}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step_1024", "step_2048", "best", "latest"}
    for step in (1024, 2048):
        folder = run / "checkpoints" / f"step_{step}"
        expected = {"model.safetensors", "optimizer.safetensors", "environment.safetensors", "state.json"}
        assert {p.name for p in folder.iterdir()} >= expected | {"manifest.json"}
        checkpoint.verify(folder)
        found = json.loads((run / "evaluations" / f"step_{step}.json").read_text())
        assert len(found["episodes"]) == 5 and all(e["return"] == e["length"] >= 1 for e in found["episodes"])
        assert found["eval/mean_reward"] == pytest.approx(np.mean([e["return"] for e in found["episodes"]]))
        assert (run / "videos" / f"eval_episode_step_{step}.mp4").stat().st_size > 500
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in (run / "plots").iterdir())
    assert len(list((run / "plots").iterdir())) >= 2


def test_the_config_is_resolved_and_the_manifest_complete(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["device"], config["compile"], config["threads"], config["env"]["backend"]) == (
        "cpu",
        "off",
        1,
        "native",
    )
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["command"] == ["rlgym", *WORDS, *EVERY]
    assert (manifest["status"], manifest["seed"], manifest["device"], manifest["threads"]) == ("finished", 3, "cpu", 1)
    assert manifest["resume"] == {"environment": "exact", "arithmetic": "exact, with the recorded thread count"}
    assert manifest["start"] <= manifest["end"] and manifest["packages"]["torch"] == torch.__version__


def test_the_terminal_shows_progress_and_what_to_do_next(trained: tuple[Path, str, str]) -> None:
    run, out, err = trained
    assert "\x1b" not in out + err, "no ANSI where there is no terminal"
    relative = Path("runs") / run.name
    assert f"tensorboard --logdir {relative.parent}" in out and f"python -m rlgym evaluate {relative}" in out
    assert f"python -m rlgym resume {relative} steps=4096" in out
    assert "2,048" in err and "steps/s" in err
    assert not re.search("Warning|Traceback", err)


def test_tensorboard_finds_the_tags_and_numbers_of_metrics_jsonl(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tags = {tag for row in logged for tag in row} - {"step", "time"}
    assert set(events.Tags()["scalars"]) == tags
    sb3 = """rollout/ep_rew_mean rollout/ep_len_mean eval/mean_reward eval/mean_ep_length time/fps time/total_timesteps
    train/approx_kl train/clip_fraction train/clip_range train/entropy_loss train/explained_variance train/learning_rate
    train/loss train/policy_gradient_loss train/value_loss"""
    assert set(sb3.split()) <= tags
    for tag in tags:
        curve = [(event.step, event.value) for event in events.Scalars(tag)]
        expected = [(row["step"], row[tag]) for row in logged if tag in row]
        assert [step for step, _ in curve] == [step for step, _ in expected]
        np.testing.assert_allclose([v for _, v in curve], [v for _, v in expected], rtol=1e-6)
    assert [row["step"] for row in logged] == [1024, 2048]

    (text,) = events.Tensors("config")
    assert "learning_rate: 0.00025" in text.tensor_proto.string_val[0].decode()
    parameters = set(checkpoint.load(run / "checkpoints" / "step_2048")[0]["model"])
    kinds = {f"{kind}/{name}" for kind in ("parameters", "gradients") for name in parameters}
    assert set(events.Tags()["histograms"]) == kinds
    assert [h.step for h in events.Histograms("parameters/actor.0.weight")] == [1024, 2048]
    assert set(events.Tags()["images"]) == {f"curves/{p.stem}" for p in (run / "plots").iterdir()}
    hparams = events.summary_metadata["_hparams_/session_start_info"].plugin_data
    assert hparams.plugin_name == "hparams" and b"agent.learning_rate" in hparams.content
    # TensorBoard shows each folder with event files as a run: this one, and that of the videos
    assert {p.parent for p in run.rglob("*tfevents*")} == {run, run / "videos"}
    videos = EventAccumulator(str(run / "videos"))
    videos.Reload()
    assert [image.step for image in videos.Images("eval/episode")] == [1024, 2048]


def test_the_summary_says_how_it_ended(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (summary["status"], summary["steps"], summary["updates"]) == ("finished", 2048, 2)
    assert summary["final"] == {tag: value for tag, value in logged[-1].items() if tag not in ("step", "time")}
    scores = {row["step"]: row["eval/mean_reward"] for row in logged}
    best = max(scores, key=lambda step: (scores[step], step))
    assert summary["best"] == {"eval/mean_reward": scores[best], "step": best}
    assert (run / "checkpoints" / "best").read_text().strip() == f"step_{best}"
    assert summary["steps_per_second"] == pytest.approx(2048 / summary["wall_time_s"], rel=0.01)


# ---- commands on the finished run


def test_evaluate_prints_and_writes_the_same(run: Path, command: Callable[..., Answer]) -> None:
    before = set((run / "evaluations").iterdir())
    answer = command("evaluate", str(run), "episodes=10")
    assert (answer.code, answer.err) == (0, "")
    (path,) = set((run / "evaluations").iterdir()) - before
    found = json.loads(path.read_text())
    returns = [episode["return"] for episode in found["episodes"]]
    assert len(returns) == 10 and all(e["length"] == e["return"] for e in found["episodes"])
    assert found["mean_reward"] == pytest.approx(np.mean(returns))
    assert found["std_reward"] == pytest.approx(np.std(returns))
    assert f"mean_reward {found['mean_reward']:.4g}" in answer.out
    assert f"std_reward {found['std_reward']:.4g}" in answer.out and str(path) in answer.out
    path.unlink()
    command("evaluate", str(run), "episodes=10")
    (again,) = set((run / "evaluations").iterdir()) - before
    assert json.loads(again.read_text()) == found, "fresh episodes, and the same ones each time"
    again.unlink()
    command("evaluate", str(run), "episodes=10", "seed=1")
    (other,) = set((run / "evaluations").iterdir()) - before
    assert json.loads(other.read_text())["episodes"] != found["episodes"]
    other.unlink()


def test_evaluate_plays_the_checkpoint_that_is_asked_for(run: Path, command: Callable[..., Answer]) -> None:
    def returns(which: str) -> Any:
        before = set((run / "evaluations").iterdir())
        assert command("evaluate", str(run), "episodes=8", f"checkpoint={which}").code == 0
        (path,) = set((run / "evaluations").iterdir()) - before
        found = json.loads(path.read_text())
        path.unlink()
        assert found["checkpoint"] == which
        return found["episodes"]

    best = (run / "checkpoints" / "best").read_text().strip().removeprefix("step_")
    other = "1024" if best == "2048" else "2048"
    assert returns("best") == returns(best) != returns(other)
    assert returns("latest") == returns("2048")


def test_play_writes_a_film_of_the_whole_episode(run: Path, command: Callable[..., Answer]) -> None:
    import imageio_ffmpeg

    before = set((run / "videos").glob("*.mp4"))
    answer = command("play", str(run), "episodes=2")
    assert answer.code == 0, answer.err
    (film,) = set((run / "videos").glob("*.mp4")) - before
    lengths = [int(n) for n in re.findall(r"episode \d: return \d+, (\d+) steps", answer.out)]
    assert len(lengths) == 2 and str(film) in answer.out
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] == sum(lengths)
    film.unlink()


def test_runs_lists_it(run: Path, command: Callable[..., Answer]) -> None:
    answer = command("runs", str(run.parent))
    assert answer.code == 0
    (line,) = [line for line in answer.out.splitlines() if run.name in line]
    assert "CartPole-v1" in line and "finished" in line and "2,048" in line


def test_rerun_repeats_it_to_the_bit(run: Path, command: Callable[..., Answer], tmp_path: Path) -> None:
    again = tmp_path / "again"
    answer = command("rerun", str(run), f"run.dir={again}", "evaluate.video=false", "display=quiet")
    assert answer.code == 0, answer.err
    assert rows(again) == rows(run) and len(rows(run)) == 2
    first, second = (checkpoint.load(folder / "checkpoints" / "step_2048")[0]["model"] for folder in (run, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- from Python


def test_train_and_load_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["agent.n_steps=16", "agent.batch_size=32", "env.num_envs=2", "evaluate.episodes=2", "display=quiet"]
    run = rlgym.train("agent=ppo", "env=Pendulum-v1", "tuned=off", "steps=128", *small)
    assert run.exit_code == 0 and run.summary["steps"] == 128 and run.dir.parent == Path("runs")
    for source in (run, run.dir, str(run.dir), "last", "Pendulum"):
        policy = rlgym.load(source)
        weights = checkpoint.load(run.dir / "checkpoints" / "step_128")[0]["model"]
        assert all(torch.equal(tensor, weights[name]) for name, tensor in policy.network.state_dict().items())
    env = gym.make("Pendulum-v1")
    obs, _ = env.reset(seed=0)
    action = policy.act({"obs": obs[None]})
    assert action.shape == (1, 1) and env.action_space.contains(action[0])
    np.testing.assert_array_equal(action, policy.act({"obs": obs[None]}))
    assert policy.predict(obs) == action.item(), "one observation of an ordinary environment"
    samples = [policy.act({"obs": obs[None]}, sampler=policy.sampler(seed)).item() for seed in range(5)]
    assert len(set(samples)) == 5
    with pytest.raises(RequestError, match="did you mean agent.n_steps"):
        rlgym.train("n_steps=3")
    with pytest.raises(RequestError, match="no run 'nowhere'"):
        rlgym.load("nowhere")


class Adapter:
    """A policy of ours as Stable-Baselines3 asks one."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def predict(self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        assert deterministic
        return self.policy.act({"obs": obs}), None


@pytest.mark.parametrize("id", ["Pendulum-v1", "Acrobot-v1"])
def test_stable_baselines3_measures_the_same_returns(id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same policy on the same episodes: theirs from Gymnasium's environment, ours from whatever steps it."""
    from stable_baselines3.common.evaluation import evaluate_policy as theirs
    from stable_baselines3.common.vec_env import DummyVecEnv

    monkeypatch.chdir(tmp_path)
    small = ["agent.n_steps=64", "agent.batch_size=32", "env.num_envs=2", "evaluate.episodes=1", "tuned=off"]
    scaled = "env.normalize_observation=true"
    policy = rlgym.load(rlgym.train(f"env={id}", "steps=512", *small, scaled, "display=quiet"))
    env = DummyVecEnv([lambda: gym.make(id)])
    env.seed(7)
    model: Any = Adapter(policy)
    returns, lengths = theirs(model, env, n_eval_episodes=4, return_episode_rewards=True, warn=False)
    for backend in ("native", "sync"):
        ours = evaluate_policy(policy, make_env(EnvConfig(id=id, backend=backend), num_envs=1), 4, seed=7)
        assert [episode["length"] for episode in ours.records["episodes"]] == lengths
        np.testing.assert_allclose([e["return"] for e in ours.records["episodes"]], returns, rtol=1e-4)
        assert ours.metrics["eval/mean_reward"] == pytest.approx(np.mean(np.asarray(returns)), rel=1e-4)


# ---- an environment of one's own

MODULE = '''
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env):
    """Walk right along a line of `length` places; two numbers and a place make an observation."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, length=6, render_mode=None):
        self.length, self.render_mode = length, render_mode
        self.observation_space = spaces.Dict(
            {"place": spaces.Discrete(length), "noise": spaces.Box(0, 1, (2,), np.float32)}
        )
        self.action_space = spaces.Discrete(2, start=-1)

    def _observe(self):
        return {"place": self.place, "noise": self.np_random.random(2, dtype=np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self._observe(), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action == 0 else -1))
        there = self.place == self.length - 1
        return self._observe(), 1.0 if there else -0.1, there, False, {}

    def render(self):
        frame = np.zeros((32, 32 * self.length, 3), np.uint8)
        frame[:, 32 * self.place : 32 * self.place + 32] = 255
        return frame


gym.register("Walk-v0", Walk, max_episode_steps=30)
'''


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "walk.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("walk", None)
    gym.registry.pop("Walk-v0", None)


def test_an_environment_of_ones_own(walk: None, command: Callable[..., Answer], tmp_path: Path) -> None:
    run = tmp_path / "mine"
    small = ["agent.n_steps=32", "agent.batch_size=64", "agent.learning_rate=0.01", "evaluate.episodes=4"]
    words = ["env=walk:Walk-v0", "+env.kwargs.length=4", "steps=2048", "evaluate.every=512", "checkpoint.every=512"]
    code, out, err = shell(*words, *small, f"run.dir={run}", cwd=tmp_path)  # as a person does: the folder is the path
    assert code == 0, err
    for line in (f"evaluate {run}", f"resume {run} steps=4096"):
        assert re.search(rf"{re.escape(line)}.* trust=true$", out, re.MULTILINE)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"]["eval/mean_reward"] == pytest.approx(0.8), "three steps to the right: it was learned"

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for name in ("resume", "evaluate", "play", "rerun"):
        answer = command(name, str(run))
        assert answer.code == 2 and "walk:Walk-v0" in answer.err and "trust=true" in answer.err
        assert len(answer.err.splitlines()) == 1 and answer.out == ""
    assert "walk" not in sys.modules, "refused before anything of it ran"
    with pytest.raises(RequestError, match="trust"):
        rlgym.load(run)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    assert command("resume", str(run), "steps=2560", "trust=true", "display=quiet").code == 0
    assert json.loads((run / "summary.json").read_text())["steps"] == 2560
    answer = command("evaluate", str(run), "episodes=5", "trust=true")
    assert answer.code == 0 and "mean_reward 0.8 " in answer.out, answer
    answer = command("play", str(run), "trust=true")
    assert answer.code == 0 and "return 0.8, 3 steps" in answer.out, answer
    policy = rlgym.load(run, trust=True)
    obs = {"place": np.array([[0], [1], [2]]), "noise": np.zeros((3, 2), np.float32)}
    assert policy.act(obs).tolist() == [1, 1, 1], "counted from 0, as a BatchEnv takes them"

    env = gym.make("walk:Walk-v0").unwrapped
    check_env(env, skip_render_check=True)
    assert isinstance(env.observation_space, spaces.Dict)
