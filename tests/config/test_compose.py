"""From words to a typed config: which value wins, which choices exist, what is refused."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import pytest
import yaml

from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.config.compose import compose, expand, revise
from rlgym.config.groups import choices
from rlgym.config.schema import EnvConfig, TrainConfig, knob
from rlgym.errors import RequestError

CONF = Path(__file__).parents[2] / "conf"
TUNED = sorted(name for name in choices("train", "tuned") if name != "off")


@dataclass
class OwnConfig:
    name: str = "own"
    depth: int = knob(2, "layers", gt=0)


class Own:
    Config = OwnConfig


class Bare:
    """An agent that forgot its Config."""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, as a user has it: `env=own_env:Own-v0`."""
    (tmp_path / "own_env.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Own-v0', entry_point=CartPoleEnv)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_env"
    sys.modules.pop("own_env", None)
    gymnasium.registry.pop("Own-v0", None)


def test_plain_defaults_are_the_dataclasses() -> None:
    """The schema nodes, train.yaml and off.yaml add nothing of their own."""
    expected = TrainConfig(env=EnvConfig(id="CartPole-v1"), agent=PPOConfig())
    assert compose(["tuned=off"]) == expected
    assert compose(["tuned=null", "experiment=null"]) == expected


def test_no_words_take_the_tuned_values_of_cartpole() -> None:
    config = compose([])
    tuned = yaml.safe_load((CONF / "tuned/ppo/CartPole-v1.yaml").read_text())
    assert config.env.id == "CartPole-v1"
    for key, value in tuned["agent"].items():
        assert getattr(config.agent, key) == value
    assert config != compose(["tuned=off"])


def test_who_wins(tmp_path: Path) -> None:
    """Command line over experiment over tuned over the dataclass."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "tuned/ppo").mkdir(parents=True)
    (tmp_path / "tuned/ppo/Blackjack-v1.yaml").write_text(
        "# @package _global_\nseed: 2\nupdates: 2\nagent: {n_epochs: 2}\n"
    )
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /agent: ppo\n  - override /env: Blackjack-v1\n"
        "seed: 3\nupdates: 3\n"
    )
    config = compose(["experiment=mine", "seed=4"], config_dir=str(tmp_path))
    assert (config.env.id, config.seed, config.updates, config.agent.n_epochs) == ("Blackjack-v1", 4, 3, 2)
    assert config.agent.n_steps == PPOConfig().n_steps
    assert compose(["experiment=mine", "tuned=off"], config_dir=str(tmp_path)).agent.n_epochs == PPOConfig().n_epochs


@pytest.mark.parametrize("name", TUNED)
def test_tuned_files_compose_and_are_chosen_by_agent_and_env(name: str) -> None:
    agent, env = name.split("/", 1)
    data = yaml.safe_load((CONF / f"tuned/{name}.yaml").read_text())
    config = compose([f"agent={agent}", f"env={env}"])
    assert config.env.id == env
    assert config == compose([f"agent={agent}", f"env={env}", f"tuned={name}"])
    for key, value in data.get("agent", {}).items():
        assert getattr(config.agent, key) == value, key
    assert compose([f"env={env}", "tuned=off"]).agent == PPOConfig()


@pytest.mark.parametrize("name", sorted(choices("train", "experiment")))
def test_experiments_compose(name: str) -> None:
    data = yaml.safe_load((CONF / f"experiment/{name}.yaml").read_text())
    overrides = {key: value for line in data["defaults"] for key, value in line.items()}
    config = compose([f"experiment={name}"])
    assert (config.agent.name, config.env.id) == (overrides["override /agent"], overrides["override /env"])
    assert config.steps == data["steps"]
    same = [f"experiment={name}", f"agent={config.agent.name}", f"env={config.env.id}"]
    assert compose(same) == config


def test_every_choice_has_a_summary() -> None:
    for group in ("agent", "env", "tuned", "experiment"):
        for name, text in choices("train", group).items():
            assert text and not text.startswith("@"), f"{group}/{name}"


@pytest.mark.parametrize("other", ["agent=own", "env=Acrobot-v1"])
def test_experiment_with_another_agent_or_env_is_refused(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = type("EntryPoint", (), {"name": "own", "value": f"{__name__}:Own"})
    monkeypatch.setattr("rlgym.config.registry.entry_points", lambda group: [own])
    with pytest.raises(RequestError, match=f"^{re.escape(other)}: experiment=cartpole_fast is a recipe for agent=ppo"):
        compose(["experiment=cartpole_fast", other])


def test_any_gymnasium_id_without_a_file() -> None:
    assert compose(["env=Blackjack-v1"]).env.id == "Blackjack-v1"
    assert "Blackjack-v1" not in choices("train", "env")


def test_id_with_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    gymnasium.register("Family/Own-v5", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    try:
        assert compose(["env=Family/Own-v5"]).env.id == "Family/Own-v5"
    finally:
        gymnasium.registry.pop("Family/Own-v5")


def test_env_of_ones_own_module(own_module: str) -> None:
    assert compose([f"env={own_module}:Own-v0"]).env.id == "own_env:Own-v0"


def test_agent_of_ones_own_module() -> None:
    config = compose([f"agent={__name__}:Own", "agent.depth=5"])
    assert config.agent == OwnConfig(name=f"{__name__}:Own", depth=5)
    with pytest.raises(RequestError, match="^agent.depth=0: must be > 0$"):
        compose([f"agent={__name__}:Own", "agent.depth=0"])


def test_agent_of_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    own = type("EntryPoint", (), {"name": "own", "value": f"{__name__}:Own"})
    monkeypatch.setattr("rlgym.config.registry.entry_points", lambda group: [own])
    assert compose(["agent=own", "agent.depth=3"]).agent == OwnConfig("own", 3)


def test_configs_of_ones_own_folder(tmp_path: Path) -> None:
    for group in ("agent", "env"):
        (tmp_path / group).mkdir()
    (tmp_path / "env/windy.yaml").write_text("id: CartPole-v1\nkwargs: {sutton_barto_reward: true}\n")
    (tmp_path / "agent/wide.yaml").write_text("defaults: [ppo]\nnet_arch: [256, 256]\n")
    config = compose(["env=windy", "agent=wide", "tuned=off"], config_dir=str(tmp_path))
    assert config.env == EnvConfig(id="CartPole-v1", kwargs={"sutton_barto_reward": True})
    assert config.agent == PPOConfig(net_arch=[256, 256])


def test_a_mistake_in_ones_own_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env/bad.yaml").write_text("id: CartPole-v1\nnum_env: 3\n")
    (tmp_path / "env/torn.yaml").write_text("id: [\n")
    with pytest.raises(RequestError, match="^unknown key env.num_env - .* env.num_envs[?] .in .*env/bad.yaml.$"):
        compose(["env=bad"], config_dir=str(tmp_path))
    with pytest.raises(RequestError):
        compose(["env=torn"], config_dir=str(tmp_path))


TUNED_TEXT = "# @package _global_\nsteps: 5_000\nagent: {n_steps: 64}\n"
OWN_TUNED = {
    "as the package's": TUNED_TEXT.encode(),
    "a byte order mark": b"\xef\xbb\xbf" + TUNED_TEXT.encode(),
    "Windows line ends": TUNED_TEXT.replace("\n", "\r\n").encode(),
    "the header on another line": b"# my values\n\n" + TUNED_TEXT.encode(),
    "the header at the end": b"steps: 5_000\nagent: {n_steps: 64}\n# @package _global_",
    "no header": TUNED_TEXT.partition("\n")[2].encode(),
}


def put(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("way", OWN_TUNED)
def test_a_tuned_file_of_ones_own_folder_wins(way: str, tmp_path: Path) -> None:
    """CartPole-v1 is an id that the package has a tuned file for."""
    put(tmp_path / "tuned/ppo/CartPole-v1.yaml", OWN_TUNED[way])
    config = compose(["steps=6_000"], config_dir=str(tmp_path))
    assert (config.steps, config.agent.n_steps) == (6_000, 64)
    assert config.agent.learning_rate == PPOConfig().learning_rate
    assert compose([], config_dir=str(tmp_path)).steps == 5_000


@pytest.mark.parametrize("id", ["Family/Own-v5", "own_env:Own-v0"])
def test_a_tuned_file_of_an_id_with_a_slash_or_a_module(id: str, own_module: str, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    put(folder / f"tuned/ppo/{id}.yaml", "steps: 5_000\n")
    put(folder / f"env/{id}.yaml", "num_envs: 3\n")
    gymnasium.register("Family/Own-v5", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    try:
        config = compose([f"env={id}"], config_dir=str(folder))
    finally:
        gymnasium.registry.pop("Family/Own-v5")
    assert (config.env.id, config.env.num_envs, config.steps) == (id, 3, 5_000)


def test_every_group_of_ones_own_folder_wins(tmp_path: Path) -> None:
    bom = b"\xef\xbb\xbf"
    put(tmp_path / "agent/ppo.yaml", bom + b"# mine\nn_steps: 32\n")
    put(tmp_path / "env/Acrobot-v1.yaml", bom + b"num_envs: 3\n")
    put(tmp_path / "experiment/cartpole_fast.yaml", "defaults:\n  - override /env: Acrobot-v1\n# mine\nsteps: 5_000\n")
    config = compose(["experiment=cartpole_fast", "tuned=off"], config_dir=str(tmp_path))
    assert (config.agent.name, config.agent.n_steps, config.env.num_envs, config.steps) == ("ppo", 32, 3, 5_000)
    assert choices("train", "agent", str(tmp_path))["ppo"] == "mine"
    put(tmp_path / "model/gpt_nano.yaml", bom + b"defaults: [gpt2_schema]\nname: gpt_nano\ndepth: 1\n")
    assert compose(["model=gpt_nano"], "pretrain", str(tmp_path)).model.depth == 1


MISPLACED = {
    "tuned/ppo/CartPole-v1.yml": "is not read for env=CartPole-v1; rename it to tuned/ppo/CartPole-v1.yaml",
    "tuned/PPO/cartpole-v1.yaml": "is not read for env=CartPole-v1; rename it to tuned/ppo/CartPole-v1.yaml",
    "tuned/ppo/CartPole-v1.yaml.txt": "rename it to tuned/ppo/CartPole-v1.yaml",
    "tuned/ppo-CartPole-v1.yaml": "rename it to tuned/ppo/CartPole-v1.yaml",
    "tuned/CartPole-v1.yaml": "rename it to tuned/ppo/CartPole-v1.yaml",
    "env/cartpole-v1.yaml": "is not read for env=CartPole-v1; rename it to env/CartPole-v1.yaml",
    "Tuned/ppo/CartPole-v1.yaml": "is not read; a group's folder is named tuned",
    "train.yaml": "conf/train.yaml cannot be replaced",
}


@pytest.mark.parametrize("name", MISPLACED)
def test_a_file_of_ones_own_that_would_not_be_read_is_named(name: str, tmp_path: Path) -> None:
    file = put(tmp_path / name, TUNED_TEXT)
    with pytest.raises(RequestError, match=re.escape(MISPLACED[name])) as refused:
        compose([], config_dir=str(tmp_path))
    assert str(file if name[0] != "T" else tmp_path / "Tuned") in str(refused.value)


WRONG_FILES = {
    b"# @package agent\nn_steps: 64\n": "@package agent: files of tuned/ hold whole keys, so it must be _global_",
    b"agent: {n_stepz: 64}\n": "unknown key agent.n_stepz - did you mean agent.n_steps?",
    b"n_steps: 64\n": "unknown key n_steps - did you mean agent.n_steps?",
    b"- a\n- b\n": "must hold keys and values",
    b"five\n": "unknown key five",
    b"steps: [\n": "not plain YAML",
    b"steps: 1\nsteps: 2\n": "not plain YAML",
    "steps: 5 # \u00e9".encode("utf-16"): "not text in UTF-8",
    b"steps: 5 # \xe9\n": "not text in UTF-8",
    b"[" * 5_000: "not plain YAML",
    b"steps: 5\x00\n": "not plain YAML",
}


@pytest.mark.parametrize("content", WRONG_FILES, ids=range(len(WRONG_FILES)))
def test_what_is_wrong_in_a_file_of_ones_own_is_named(content: bytes, tmp_path: Path) -> None:
    file = put(tmp_path / "tuned/ppo/CartPole-v1.yaml", content)
    with pytest.raises(RequestError, match=re.escape(WRONG_FILES[content])) as refused:
        compose([], config_dir=str(tmp_path))
    assert str(file) in str(refused.value)


def test_a_file_of_ones_own_that_includes_itself_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "agent/ppo.yaml", "defaults: [ppo]\nn_steps: 32\n")
    with pytest.raises(RequestError, match=f"^--config-dir {re.escape(str(tmp_path))}: a config includes itself"):
        compose([], config_dir=str(tmp_path))


@pytest.mark.parametrize("word", ["tuned.steps=5", "experiment.steps=5"])
def test_a_key_of_a_group_without_keys_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match="^unknown key "):
        compose([word])


def test_target_in_ones_own_file_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "env").mkdir()
    (tmp_path / "env/evil.yaml").write_text(
        f"id: CartPole-v1\nkwargs: {{x: [{{_target_: pathlib.Path.touch, self: {canary}}}]}}\n"
    )
    with pytest.raises(RequestError, match="env.kwargs.x.0._target_=pathlib.Path.touch: refused"):
        compose(["env=evil"], config_dir=str(tmp_path))
    assert not canary.exists()


def test_env_kwargs_with_and_without_plus_keep_their_types() -> None:
    words = ["env.kwargs.a=3", "+env.kwargs.b=true", "++env.kwargs.c=[1,x]", "env.kwargs.d='a,b'", "env.kwargs.e=1e3"]
    kwargs = compose(words).env.kwargs
    assert kwargs == {"a": 3, "b": True, "c": [1, "x"], "d": "a,b", "e": 1000.0}
    assert [type(value) for value in kwargs.values()] == [int, bool, list, str, float]


def test_scalars_as_typed() -> None:
    words = ["steps=1e6", "evaluate.every=1_000", "run.name=007", "compile=off", "stop.at=-100", "agent.target_kl=null"]
    config = compose([*words, "agent.net_arch=[1e2,32]", "agent.ent_coef=1"])
    assert (config.steps, config.evaluate.every) == (1_000_000, 1_000)
    assert (config.run.name, config.compile, config.stop.at) == ("007", "off", -100.0)
    assert (config.agent.target_kl, config.agent.net_arch) == (None, [100, 32])
    assert type(config.agent.ent_coef) is float


def test_one_key_may_refer_to_another() -> None:
    assert compose(["tuned=off", "agent.batch_size=${agent.n_steps}"]).agent.batch_size == PPOConfig().n_steps


def test_composing_leaves_a_users_own_hydra_alone() -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        compose(["seed=3"])
        assert GlobalHydra.instance().hydra is before


def test_expand_is_every_combination() -> None:
    jobs = expand(["agent=ppo", "env=CartPole-v1,Acrobot-v1", "seed=range(1,4)", "run.name='a,b'"])
    expected = [
        ["agent=ppo", f"env={env}", f"seed={seed}", "run.name='a,b'"]
        for env, seed in itertools.product(("CartPole-v1", "Acrobot-v1"), (1, 2, 3))
    ]
    assert jobs == expected
    assert expand([]) == [[]]
    assert expand(["agent.net_arch=[8],[16,16]", "hydra/launcher=basic"]) == [
        ["agent.net_arch=[8]"],
        ["agent.net_arch=[16,16]"],
    ]


def test_expanded_values_compose_as_typed() -> None:
    steps = [compose(job).steps for job in expand(["steps=1e5,200_000"])]
    assert steps == [100_000, 200_000]


@pytest.mark.parametrize("word", ["agent.gamma=interval(0,1)", "env=glob(*)"])
def test_a_sweep_without_a_list_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match="a sweep needs a list of values"):
        expand([word])


def test_revise_changes_only_what_is_named() -> None:
    config = compose(["env=Pendulum-v1"])
    revised = revise(config, ["seed=7", "agent.gamma=.5", "env.kwargs.g=9.8", "steps=1e4"])
    assert revised.env == replace(config.env, kwargs={"g": 9.8})
    assert revised.agent == replace(config.agent, gamma=0.5)
    assert replace(revised, env=config.env, agent=config.agent) == replace(config, seed=7, steps=10_000)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("env=Acrobot-v1", "env=Acrobot-v1: a rerun keeps its run's choices"),
        ("agent.gama=1", "unknown key agent.gama - did you mean agent.gamma?"),
        ("seed.x=1", "unknown key seed.x"),
        ("steps=0", "steps=0: must be > 0"),
    ],
)
def test_revise_refuses(word: str, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        revise(compose([]), [word])
