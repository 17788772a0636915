"""Code that only a folder names is imported with trust=true and never without, on whatever way the folder is opened."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import rlgym
from rlgym.cli.main import main
from rlgym.common.atomic_io import JSON_BYTES, YAML_BYTES, read_json, read_rows, read_yaml
from rlgym.common.table import shown
from rlgym.config.compose import compose
from rlgym.errors import RequestError
from tests.command.conftest import Answer
from tests.fake_runs import fake_run

SMALL = ["env=tic_tac_toe", "agent=ppo", "steps=32", "agent.n_steps=4", "agent.batch_size=8", "agent.n_epochs=1"]
SMALL += ["evaluate.episodes=1", "display=quiet", "compile=off", "log.histograms=false", "agent.net_arch=[4]"]
COMMANDS = {
    "evaluate": "evaluate {run}",
    "play": "play {run}",
    "export": "export {run}",
    "resume": "resume {run} steps=64",
    "rerun": "rerun {run} --cfg job",
    "opponents": "evaluate {sound} opponents={run}",
    "against": "play {sound} against={run}",
    "opponent": "env=tic_tac_toe env.self_play.opponent={run}",
    "init_from": "finetune init_from={run} method=instruction",
    "reward.run": "finetune init_from={run} method=grpo reward=reward_model reward.run={run}",
}


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("player") / "sound"
    assert main([*SMALL, f"run.dir={run}"]) == 0
    return run


@pytest.fixture
def named(player: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the player whose config names an agent in a module of the current folder."""
    folder = tmp_path / "named"
    folder.mkdir()
    for path in player.iterdir():
        if path.name != "config.yaml":
            (folder / path.name).symlink_to(path)
    config = yaml.safe_load((player / "config.yaml").read_text())
    config["agent"]["name"] = "own_agent:Own"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "own_agent.py").write_text(
        "from rlgym.agents.configs.on_policy import PPOConfig\nfrom rlgym.agents.ppo import PPO\n"
        "class Own(PPO):\n    Config = PPOConfig\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    sys.modules.pop("own_agent", None)


@pytest.mark.parametrize("way", COMMANDS)
def test_no_command_imports_what_a_folder_names(
    way: str, player: Path, named: Path, command: Callable[..., Answer]
) -> None:
    answer = command(*COMMANDS[way].format(run=named, sound=player).split())
    assert answer.code == 2 and len(answer.err.splitlines()) == 1, answer
    assert "agent.name=own_agent:Own names code to import: add trust=true if you trust it" in answer.err
    assert "own_agent" not in sys.modules


def test_python_imports_it_only_with_trust(named: Path) -> None:
    with pytest.raises(RequestError, match="add trust=true"):
        rlgym.load(named)
    assert "own_agent" not in sys.modules
    assert rlgym.load(named, trust=True)


def test_trust_reaches_the_runs_that_a_trusted_config_names(
    named: Path, command: Callable[..., Answer], tmp_path: Path
) -> None:
    """The remedy that a refusal names works for training, too, and for what was trained so."""
    words = [*SMALL, f"env.self_play.opponent={named}", "run.dir=against_own"]
    assert "add trust=true" in command(*words).err
    assert command(*words, "trust=true").code == 0
    answer = command("resume", "against_own", "steps=64", "display=quiet", "trust=true")
    assert answer.code == 0, answer.err
    search = [*words[:-1], "agent.gamma=choice(0.9,0.8)", "trials=2", "seeds=1", "--config-dir", ".", "run.dir=found"]
    answer = command("sweep", *search, "jobs=2", "trust=true")
    assert answer.code == 0 and "failed" not in answer.err, answer.err


@pytest.mark.parametrize("trust", [False, True])
def test_a_reward_or_argument_that_names_code(trust: bool, tmp_path: Path) -> None:
    words = ["reward=sum", "reward.terms=[{name: length}, {name: 'no_module:f'}]"]
    cases = [("finetune", words, "reward.terms.1.name"), ("train", ["+env.kwargs.a=m:E-v0"], "env.kwargs.a")]
    for root, given, key in cases:
        if trust:
            assert compose(given, root, trust=True)
        else:
            with pytest.raises(RequestError, match=f"{key}=.*names code to import"):
                compose(given, root, trust=False)


# ---- bounded reading


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["/dev/zero", "fifo", "folder", "large", "deep", "number"])
def test_what_has_no_end_is_not_read(name: str, kind: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    """`runs` and `compare` say what the others say of the sound, whatever one folder holds."""
    fake_run(tmp_path / "runs", seed=1)
    path = fake_run(tmp_path / "runs", seed=2) / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "/dev/zero":
        path.symlink_to(kind)
    elif kind == "large":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.write_text("[" * 10**5 if kind == "deep" else '{"step": 1' + "0" * 5_000 + "}")
    assert "run_ppo_CartPole-v1_s1" in command("runs").out
    assert command("compare", "seed=1", "runs").code in (0, 2)


def test_bounds_of_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    bomb = "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    cases = {bomb: "aliases", "[" * 80 + "]" * 80: "too deeply", "- 1\n" * (YAML_BYTES // 4 + 1): "more than"}
    for text, said in cases.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_yaml(path)
    path.write_text('{"step": 7, "a": 0.5, "b": "x", "c": ' + "9" * 400 + "}\n[1]\n")
    assert read_rows(path) == [{"step": 7, "a": 0.5}]
    path.write_text("1" * 10)
    with pytest.raises(ValueError, match="more than 5 bytes"):
        read_json(path, 5)
    assert JSON_BYTES < 1 << 30


@pytest.mark.parametrize("seconds", [1e14, 1e308, float("inf"), float("nan"), "x", [1], 10**400])
def test_one_odd_summary_leaves_the_table_whole(
    seconds: object, command: Callable[..., Answer], tmp_path: Path
) -> None:
    fake_run(tmp_path / "runs", seed=1)
    path = fake_run(tmp_path / "runs", seed=2) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wall_time_s": seconds}))
    answer = command("runs")
    assert answer.code == 0 and len(answer.out.splitlines()) == 3
    assert shown(1e14, "time_s") == "100,000,000,000,000" and shown(3661.0, "time_s") == "1:01:01"
