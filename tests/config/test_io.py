"""config.yaml: complete, equal after reading, and unable to run code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rlgym.config.compose import compose
from rlgym.config.parser import keys, to_dict
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config, save_config

WORDS = [
    "tuned=off",
    "agent.learning_rate=1e-5",
    "agent.adam_eps=1.2345678901234567e-300",
    "agent.net_arch=[]",
    "compile=off",
    "run.name='1e5: [x] # ü'",
    "env.kwargs={a: 'on', b: [1, null, 2.5], c: {d: '${seed}'}}",
    "stop.at=-1e-7",
    "seed=1234567890123456789",
]


def test_saved_config_is_complete_ordered_and_equal_when_read(tmp_path: Path) -> None:
    config = compose(WORDS)
    save_config(config, tmp_path / "config.yaml")
    data = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert data == to_dict(config)
    assert list(data) == [name for name in to_dict(config)]
    assert {f"agent.{name}" for name in data["agent"]} == set(keys(type(config.agent), "agent"))
    assert load_config(tmp_path / "config.yaml") == config
    assert load_config(tmp_path) == config  # a run folder stands for its config.yaml


def test_text_that_looks_like_an_interpolation_is_text(tmp_path: Path) -> None:
    """Read through OmegaConf, a foreign config could look up this machine's environment variables."""
    save_config(compose([]), tmp_path / "config.yaml")
    data = yaml.safe_load((tmp_path / "config.yaml").read_text())
    data["env"]["kwargs"] = {"x": "${oc.env:HOME}"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    assert load_config(tmp_path).env.kwargs == {"x": "${oc.env:HOME}"}


def _saved(folder: Path, **changes: object) -> Path:
    data = to_dict(compose(["tuned=off"]))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            data[section][name] = value
        else:
            data[section] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    return folder / "config.yaml"


def test_target_anywhere_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    call = {"_target_": "pathlib.Path.touch", "self": str(canary)}
    path = _saved(tmp_path, env__kwargs={"deep": [{"er": call}]})
    for trust in (False, True):
        with pytest.raises(RequestError, match="_target_=pathlib.Path.touch: refused"):
            load_config(path, trust=trust)
    assert not canary.exists()


def test_yaml_tags_are_refused_and_their_code_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "config.yaml"
    path.write_text(f"agent: !!python/object/apply:os.mkdir ['{canary}']\n")
    with pytest.raises(RequestError, match="is not plain YAML"):
        load_config(path, trust=True)
    assert not canary.exists()


@pytest.fixture
def evil_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the current folder that leaves a canary when it is imported."""
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"
        "from rlgym.agents.configs.on_policy import PPOConfig\n"
        "class Agent:\n    Config = PPOConfig\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield canary
    sys.modules.pop("evil", None)


@pytest.mark.parametrize("change", [{"agent__name": "evil:Agent"}, {"env__id": "evil:CartPole-v1"}])
def test_module_names_need_trust(change: dict[str, str], tmp_path: Path, evil_module: Path) -> None:
    path = _saved(tmp_path, **change)
    with pytest.raises(RequestError, match="names code to import: add trust=true if you trust it"):
        load_config(path)
    assert not evil_module.exists()
    config = load_config(path, trust=True)
    assert change.popitem()[1] in (config.agent.name, config.env.id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0: must be > 0"),
        ({"zteps": 1}, "unknown key zteps - did you mean steps?"),
        ({"agent": None}, "agent.name is missing"),
        ({"agent": {"name": "ppx"}}, "agent=ppx not found - did you mean agent=ppo?"),
        ({"agent__n_stepz": 3}, "unknown key agent.n_stepz - did you mean agent.n_steps?"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = _saved(tmp_path, **change)
    with pytest.raises(RequestError) as raised:
        load_config(path)
    assert str(raised.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("content", ["", "- 1\n", "a: [\n", "\x00", "a: &a [*a]\n", "a: &a [1]\nb: *a\n", "[" * 1000])
def test_no_config(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(RequestError):
        load_config(tmp_path)
    with pytest.raises(RequestError, match="cannot read"):
        load_config(tmp_path / "missing.yaml")
