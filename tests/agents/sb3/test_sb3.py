"""Stable-Baselines3 inside: the library's own numbers, resumed exactly, and requests that it cannot fulfil."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

import rlgym
from rlgym.agents.sb3.config import SB3PPOConfig
from rlgym.agents.sb3.env import BatchVecEnv, View
from rlgym.agents.sb3.learner import ACTIVATIONS, ALGORITHMS, OWN
from rlgym.cli.main import main
from rlgym.config.compose import compose
from rlgym.config.schema import EnvConfig
from rlgym.envs.make import make_env
from rlgym.errors import RequestError, TrainingError
from rlgym.run_folder import checkpoint
from tests.agents.sb3.small import CONFIGS, ENV, SMALL, learner, train, whole
from tests.agents.worlds import ACTIONS, OBSERVATIONS, copied, register, same

# ---- the library's numbers

ALIKE: dict[str, dict[str, Any]] = {
    **{algo: {"algo": algo} for algo in ALGORITHMS},
    "ppo one env, schedules": {
        "algo": "ppo",
        "num_envs": 1,
        "learning_rate_schedule": "linear",
        "clip_range_schedule": "linear",
    },
    "ppo continuous, scaled": {
        "algo": "ppo",
        "id": "Pendulum-v1",
        "env": {"normalize_observation": True, "normalize_reward": True},
    },
    "dqn one env": {"algo": "dqn", "num_envs": 1, "n_steps": 3},
}


@pytest.mark.parametrize("case", ALIKE)
def test_equal_to_the_librarys_own_learn(case: str) -> None:
    """Bit for bit, in environments that the library made itself."""
    sb3 = learner(**{"steps": 128, **ALIKE[case]})
    train(sb3, 128)

    algo, knobs, config = ALIKE[case]["algo"], sb3.knobs, sb3.config
    venv: Any = make_vec_env(config.env.id, config.env.num_envs, seed=None)
    if config.env.normalize_reward:
        venv = VecNormalize(venv, gamma=knobs.gamma)
    given = SMALL[algo] | {key: value for key, value in ALIKE[case].items() if key == "n_steps"}
    if "net_arch" in given:
        given = {**given, "policy_kwargs": {"net_arch": given["net_arch"]}}
        given.pop("net_arch")
    if "schedules" in case:
        given |= {"learning_rate": lambda left: left * 3e-4, "clip_range": lambda left: left * 0.2}
    build: Any = ALGORITHMS[algo]
    theirs = build("MlpPolicy", venv, seed=config.seed, device="cpu", **given).learn(128)

    assert theirs.num_timesteps == sb3.progress.step
    assert same(dict(theirs.policy.state_dict()), dict(sb3.model.policy.state_dict()))
    assert theirs._n_updates == sb3.model._n_updates > 5
    if isinstance(theirs, OffPolicyAlgorithm):
        assert theirs.replay_buffer is not None and sb3.replay is not None
        for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
            assert np.array_equal(getattr(theirs.replay_buffer, name), getattr(sb3.replay.buffer, name)), name
    returns = [episode["r"] for episode in theirs.ep_info_buffer]
    if returns:
        assert sb3.recent.metrics()["rollout/ep_rew_mean"] == pytest.approx(np.mean(returns), abs=1e-5)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_knob_arrives(algo: str) -> None:
    """Each knob at a value that is not the library's default."""
    config = CONFIGS[algo]()
    other: dict[str, Any] = {
        "net_arch": [7, 5],
        "activation": "elu",
        "action_noise": "normal",
        "action_noise_std": 0.3,
        "learning_rate_schedule": "linear",
        "clip_range_schedule": "linear",
        "ent_coef": "0.25" if algo == "sac" else 0.25,
        "target_entropy": "-3",
        "clip_range_vf": 0.3,
        "target_kl": 0.3,
        "sde_sample_freq": 4,
        "gradient_steps": 3,
        "buffer_size": 60,
        "train_freq_unit": "episode",
        "save_replay": False,
    }
    for key, value in vars(config).items():
        if key not in ("name", *other):
            other[key] = not value if isinstance(value, bool) else value + 2 if isinstance(value, int) else value / 2
    knobs = {key: value for key, value in other.items() if hasattr(config, key)}
    sb3 = learner(algo, "Pendulum-v1" if hasattr(config, "use_sde") else ENV[algo], num_envs=1, **knobs)
    model: Any = sb3.model
    found = vars(model) | model.policy_kwargs
    optimizer = getattr(model.policy, "optimizer", None) or model.policy.actor.optimizer
    for key, value in knobs.items():
        if key == "learning_rate":
            assert model.lr_schedule(1.0) == value and model.lr_schedule(0.5) == value / 2
        elif key in ("clip_range", "clip_range_vf"):
            assert found[key](1.0) == value
        elif key == "train_freq":
            assert (model.train_freq.frequency, model.train_freq.unit.value) == (value, "episode")
        elif key == "action_noise":
            assert np.array_equal(model.action_noise._sigma, np.full(1, 0.3))
        elif key == "activation":
            assert found["activation_fn"] is ACTIVATIONS["elu"]
        elif key in ("use_rms_prop", "rms_prop_eps"):
            assert isinstance(optimizer, torch.optim.Adam), "use_rms_prop=False"
        elif key == "target_entropy":
            assert found[key] == float(value)
        elif key == "use_sde_at_warmup":
            assert model.use_sde_at_warmup is True
        elif key not in OWN:
            assert found[key] == value, key


def test_rms_prop_eps_arrives() -> None:
    optimizer = learner("a2c", rms_prop_eps=1e-3).model.policy.optimizer
    assert isinstance(optimizer, torch.optim.RMSprop) and optimizer.defaults["eps"] == 1e-3


# ---- N + N is 2N, bit for bit

RESUMED: dict[str, dict[str, Any]] = {
    **{algo: {"algo": algo} for algo in ALGORITHMS},
    "ppo exploring by state": {"algo": "ppo", "id": "Pendulum-v1", "use_sde": True, "sde_sample_freq": 4},
    "ppo scaled": {"algo": "ppo", "env": {"normalize_observation": True, "normalize_reward": True}},
    "ppo nested": {"algo": "ppo", "id": "Anything-v0", "kwargs": {"observation": "dict", "action": "multidiscrete"}},
    "dqn scaled, n-step": {"algo": "dqn", "env": {"normalize_observation": True}, "n_steps": 3},
    "dqn nested": {"algo": "dqn", "id": "Anything-v0", "kwargs": {"observation": "dict", "action": "discrete_start"}},
    "sac exploring by state": {"algo": "sac", "use_sde": True, "ent_coef": "0.1"},
    "td3 drifting noise": {"algo": "td3", "action_noise": "ornstein_uhlenbeck"},
    "td3 episodes": {
        "algo": "td3",
        "num_envs": 1,
        "train_freq_unit": "episode",
        "gradient_steps": -1,
        "id": "Anything-v0",
        "kwargs": {"action": "box"},
    },
    "dqn image": {
        "algo": "dqn",
        "id": "Anything-v0",
        "kwargs": {"observation": "image_stacked", "action": "discrete"},
        "steps": 40,
    },
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resume_continues_bit_for_bit(case: str, tmp_path: Path) -> None:
    """The replay of 50 transitions turns over in between; the resumed one comes from a checkpoint's files."""
    given = {"steps": 120, **RESUMED[case]}
    straight, broken = learner(**given), learner(**given)
    half = given["steps"] // 2
    for sb3 in (straight, broken):
        train(sb3, half)
    assert same(whole(straight), whole(broken))
    checkpoint.save(tmp_path, 1, broken.state_dict(), {}, {})
    train(broken, half + 20)
    state, _ = checkpoint.load(checkpoint.save(tmp_path, 2, broken.state_dict(), {}, {}))
    resumed = learner(**given)
    resumed.load_state_dict(state)
    train(straight, half + 20)
    assert same(whole(straight), whole(resumed))
    while straight.progress.step < given["steps"]:
        metrics, expected = resumed.update(), straight.update()
        assert same(metrics, expected)
    assert same(whole(straight), whole(resumed))
    assert same(straight.evaluate().records, resumed.evaluate().records)
    assert straight.exactness["environment"] == "exact"


def test_segments_of_a_replay_are_written_once(tmp_path: Path) -> None:
    sb3 = learner("dqn", buffer_size=64, num_envs=2)
    files: list[set[str]] = []
    for steps in (40, 50):
        train(sb3, steps)
        checkpoint.save(tmp_path, steps, sb3.state_dict(), {}, {})
        files.append({path.name for path in (tmp_path / "checkpoints/shared").iterdir()})
    assert len(files[0]) == 10 and files[0] < files[1], "two transitions of each environment in one file"


def test_without_its_replay_a_resume_gathers_first() -> None:
    sb3 = learner("dqn", save_replay=False, num_envs=1)
    train(sb3, 100)
    state = copied(sb3.state_dict())
    assert "replay" not in state and "learns nothing until" in sb3.exactness["replay"]
    resumed = learner("dqn", save_replay=False, num_envs=1)
    resumed.load_state_dict(state)
    assert any("without the replay" in line for line in resumed.notices)
    updates = resumed.model._n_updates
    train(resumed, 120)
    assert resumed.model._n_updates == updates
    train(resumed, 128)
    assert resumed.model._n_updates == updates + 2


def test_global_generators_are_neither_read_nor_moved() -> None:
    def states() -> list[Any]:
        numpy: Any = np.random.get_state()
        return [random.getstate(), numpy[1].tolist(), torch.get_rng_state().tolist()]

    def trained(noise: int) -> Any:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(noise)
        before = states()
        sb3 = learner("dqn")
        train(sb3, 100)
        sb3.evaluate()
        assert before == states()
        return copied(sb3.state_dict())

    assert same(trained(0), trained(1))


def test_evaluation_leaves_no_trace() -> None:
    sb3 = learner("ppo", env={"normalize_observation": True})
    train(sb3, 64)
    before = copied(sb3.state_dict())
    assert sb3.evaluate().records == sb3.evaluate().records
    assert same(before, sb3.state_dict())


# ---- what it trains in


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_space(observation: str) -> None:
    """The environment itself refuses an action outside of its space."""
    images = {"discrete_start": ["dqn"], "box_asymmetric": ["ppo"]}
    others = {action: ["a2c"] for action in ACTIONS if action != "box_unbounded"}
    others |= {"discrete_start": ["dqn"], "box_asymmetric": ["a2c", "td3"]}
    algos = images if observation.startswith("image") else others
    for action, algo in ((action, algo) for action, several in algos.items() for algo in several):
        kwargs = {"observation": observation, "action": action}
        knobs: dict[str, Any] = {"ppo": {"n_steps": 8, "n_epochs": 1}, "a2c": {}}.get(algo, {"learning_starts": 4})
        sb3 = learner(algo, "Anything-v0", kwargs=kwargs, **knobs)
        train(sb3, 16)
        assert sb3.evaluate().metrics["eval/mean_ep_length"] == 5
        single = sb3.policy.predict(OBSERVATIONS[observation].sample())
        assert ACTIONS[action].contains(single)
        drawn = sb3.policy.act(sb3.env.reset(0), None, sb3.policy.sampler(1))
        assert np.array_equal(drawn, sb3.policy.act(sb3.env.reset(0), None, sb3.policy.sampler(1)))
        sb3.close()


def test_policies_by_observation() -> None:
    policies = {
        name: View(rlgym.envs.spaces.leaves(space), ACTIONS["discrete"]).policy for name, space in OBSERVATIONS.items()
    }
    assert {name for name, policy in policies.items() if policy == "MultiInputPolicy"} == {
        "tuple",
        "dict",
        "image_and_vector",
        "large",  # a choice that is looked up, not one-hot
    }
    assert {name for name, policy in policies.items() if policy == "CnnPolicy"} == {
        name for name in OBSERVATIONS if name.startswith("image_") and name != "image_and_vector"
    }


def test_next_step_autoreset_of_one_environment_leaves_no_phantom() -> None:
    """Clock observes (episode, t) and is cut off after 3 steps."""
    sb3 = learner("dqn", "ClockVector-v0", env={"backend": "native"}, num_envs=1)
    train(sb3, 40)
    assert sb3.env.phantoms and sb3.replay is not None
    buffer = sb3.replay.buffer
    obs, following = buffer.observations[:40, 0], buffer.next_observations[:40, 0]
    assert [tuple(row) for row in obs.tolist()] == [(now // 3, now % 3) for now in range(40)]
    assert np.array_equal(following - obs, np.tile([0, 1], (40, 1)))
    assert buffer.timeouts[:40, 0].tolist() == [now % 3 == 2 for now in range(40)]


def test_truncated_is_not_terminated() -> None:
    register()
    env = make_env(EnvConfig(id="Clock-v0", num_envs=2, backend="sync", kwargs={"length": 2}))
    venv = BatchVecEnv(env, View(env.leaves, env.action_space))
    venv.obs = env.reset(0)
    first = venv.reset()
    second, reward, done, infos = venv.step(np.zeros(2, np.int64))
    assert not done.any() and infos == [{}, {}] and reward.dtype == np.float32
    third, _, done, infos = venv.step(np.zeros(2, np.int64))
    assert done.all()
    for row, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is True
        assert info["terminal_observation"].tolist() == [0, 2]
        assert (first[row].tolist(), second[row].tolist(), third[row].tolist()) == ([0, 0], [0, 1], [1, 0])  # type: ignore[index]


def test_numbers_that_are_not_finite_end_the_training() -> None:
    sb3 = learner("ppo")
    weight = next(sb3.model.policy.parameters())
    weight.data[0] = torch.nan
    with pytest.raises(TrainingError):
        sb3.update()
    with pytest.raises(TrainingError, match="Stable-Baselines3 has stepped by it"):
        sb3.state_dict()


# ---- requests that the library cannot fulfil

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sac discrete": (
        {"algo": "sac", "id": "CartPole-v1"},
        "agent=sb3/sac acts in a bounded Box of floats, and env=CartPole-v1 takes Discrete(2); agent=ppo, a2c, ",
    ),
    "dqn box": ({"algo": "dqn", "id": "Pendulum-v1"}, "agent=sb3/dqn acts in Discrete, and env=Pendulum-v1 takes Box"),
    "unbounded": (
        {"algo": "ppo", "id": "Anything-v0", "kwargs": {"action": "box_unbounded"}},
        "or a bounded Box of floats, and env=Anything-v0 takes Box(-inf, inf, (1,), float32); agent=ppo, a2c or rein",
    ),
    "phantoms": (
        {"algo": "ppo", "id": "ClockVector-v0", "env": {"backend": "native"}},
        "env.backend=sync or env.num_envs=1 would do",
    ),
    "no room": (
        {"algo": "dqn", "buffer_size": 10**12},
        "agent.buffer_size=1000000000000: that many transitions of 52 bytes take 52000.0 GB, and ",
    ),
    "episodes": ({"algo": "dqn", "train_freq_unit": "episode"}, "agent.train_freq_unit=episode"),
    "n-step dict": (
        {"algo": "dqn", "id": "Anything-v0", "kwargs": {"observation": "dict"}, "n_steps": 2},
        "agent.n_steps=2",
    ),
    "sde discrete": ({"algo": "ppo", "use_sde": True}, "agent.use_sde=true"),
    "nothing to scale": (
        {
            "algo": "ppo",
            "id": "Anything-v0",
            "kwargs": {"observation": "discrete"},
            "env": {"normalize_observation": True},
        },
        "env.normalize_observation=true",
    ),
    "one advantage": ({"algo": "ppo", "num_envs": 1, "n_steps": 1}, "agent.n_steps=1, env.num_envs=1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises(RequestError) as raised:
        learner(**given)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("agent.gradient_steps=0", "gradient_steps=0 would learn nothing"),
        ("agent.ent_coef=auto_0", "ent_coef=auto_0: must be auto"),
        ("agent.target_entropy=low", "target_entropy=low: must be auto or a number"),
        ("agent.tau=2", "agent.tau=2.0: must be <= 1"),
    ],
)
def test_knobs_out_of_range(word: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        compose(["agent=sb3/sac", "env=Pendulum-v1", word])


def test_masks_are_said_not_to_be_heeded() -> None:
    sb3 = learner("ppo", "AllowedOnly-v0")
    assert sum("does not heed" in line for line in sb3.notices) == 1


# ---- the command line


def test_train_evaluate_play_resume_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["agent=sb3/dqn", "env=CartPole-v1", "steps=300", "agent.buffer_size=200", "display=quiet", "device=cpu"]
    assert main([*words, "evaluate.every=0", "evaluate.episodes=2", "log.every=100"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("_sb3-dqn_CartPole-v1_s1")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["agent"] == "sb3/dqn" and manifest["resume"]["replay"] == "exact"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tags = {tag for row in rows for tag in row}
    assert {"rollout/ep_rew_mean", "rollout/exploration_rate", "train/loss", "eval/mean_reward", "time/fps"} <= tags
    assert not list(folder.rglob("*.zip")) and not list(folder.rglob("*.pkl"))

    assert main(["evaluate", str(folder), "episodes=3", "seed=5", "device=cpu"]) == 0
    policy = rlgym.load(folder)
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=5)
    steps, over = 0, False
    while not over:
        obs, _, terminated, truncated, _ = env.step(policy.predict(obs))
        steps, over = steps + 1, terminated or truncated
    (evaluated,) = (folder / "evaluations").glob("*_3_episodes_seed_5.json")
    assert json.loads(evaluated.read_text())["episodes"][0]["length"] == steps

    assert main(["resume", str(folder), "steps=400", "display=quiet"]) == 0
    assert json.loads((folder / "summary.json").read_text())["steps"] >= 400


def test_names_with_a_slash_in_help_and_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help", "agent=sb3/td3"]) == 0
    out = capsys.readouterr().out
    assert "agent=sb3/ppo" in out and "agent.policy_delay=2" in out
    assert main(["-m", "agent=ppo,sb3/ppo", "--cfg", "job"]) == 0
    assert capsys.readouterr().out.count("name: sb3/ppo") == 1
    assert main(["agent=sb3/pp0"]) == 2
    assert "did you mean agent=sb3/ppo?" in capsys.readouterr().err


def test_tuned_values_are_found_by_agent_and_env(tmp_path: Path) -> None:
    (tmp_path / "tuned/sb3/ppo").mkdir(parents=True)
    (tmp_path / "tuned/sb3/ppo/Acrobot-v1.yaml").write_text(
        "# @package _global_\nenv: {num_envs: 5}\nagent: {n_epochs: 3}\n"
    )
    config = compose(["agent=sb3/ppo", "env=Acrobot-v1"], config_dir=str(tmp_path))
    assert (config.agent.n_epochs, config.env.num_envs) == (3, 5)
    plain = compose(["agent=sb3/ppo", "env=Acrobot-v1", "tuned=off"], config_dir=str(tmp_path))
    assert plain.agent == SB3PPOConfig() and plain.env.num_envs == 1
