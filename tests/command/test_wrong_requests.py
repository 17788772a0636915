"""A wrong request is one line on stderr that names it, exit code 2, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.conftest import Answer

WRONG = {
    # commands and options
    "evalute last": "unknown command evalute - did you mean evaluate?",
    "CartPole-v1": "unknown command CartPole-v1: one of train, ",
    "train seed": "seed: words are key=value",
    "agent=ppo CartPole-v1": "CartPole-v1: words are key=value",
    "--mulitrun": "unknown option --mulitrun - did you mean --multirun?",
    "--cfg": "--cfg needs a value",
    "--cfg all": "--cfg all: only --cfg job",
    "--config-dir nowhere": "--config-dir nowhere: no such folder",
    "evaluate last -m": "-m is for train, pretrain, finetune; evaluate takes one run",
    "evaluate last --cfg job": "--cfg is for train, pretrain, finetune and rerun, not for evaluate",
    "play last --config-dir .": "--config-dir is for train, pretrain, finetune and sweep, not for play",
    # choices
    "agent=ppx": "agent=ppx not found - did you mean agent=ppo?",
    "+agent=ppx": "agent=ppx not found - did you mean agent=ppo?",
    "agent=zzzzz": "agent=zzzzz not found: one of ppo, a2c, reinforce, dqn, rainbow, pqn, ",
    "agent=": "agent=: must be one name",
    "agent=null": "agent=null: must be one name",
    "agent=[ppo]": "agent=['ppo']: must be one name",
    "agent=no_such_module:Agent": "agent=no_such_module:Agent: cannot import no_such_module: ModuleNotFoundError",
    "agent=json:JSONDecoder": "agent=json:JSONDecoder: no Config in JSONDecoder",
    "env=../train": "env=../train: must be one name",
    "tuned=offf": "tuned=offf not found - did you mean tuned=off?",
    "tuned=ppo/CartPole-v2": "tuned=ppo/CartPole-v2 not found - did you mean tuned=ppo/CartPole-v1?",
    "experiment=cartpole_fsat": "experiment=cartpole_fsat not found - did you mean experiment=cartpole_fast?",
    "experiment=cartpole_fast env=Acrobot-v1": "env=Acrobot-v1: experiment=cartpole_fast is a recipe for agent=ppo",
    "~tuned": "~tuned: nothing can be removed; tuned=off",
    # keys
    "agnt=ppo": "unknown key agnt - did you mean agent?",
    "n_steps=3": "unknown key n_steps - did you mean agent.n_steps?",
    "agent.n_stepz=3": "unknown key agent.n_stepz - did you mean agent.n_steps?",
    "+agent.zzz=3": "unknown key agent.zzz",
    "++zzz.yyy=3": "unknown key zzz.yyy",
    "logg.every=3": "unknown key logg.every - did you mean log.every?",
    "agent@other=ppo": "unknown key agent@other",
    "agent/other=3": "unknown key agent/other",
    "env.id=Acrobot-v1": "env.id=Acrobot-v1: env.id is set by env=ID",
    "agent.name=dqn": "agent.name=dqn: agent.name is set by agent=NAME",
    "hydra/launcher=basic": "hydra/launcher=basic: Hydra's own words are for sweeps (-m)",
    # values
    "steps=abc": "steps=abc: must be an integer, like 1000 or 1e6",
    "steps=1.5": "steps=1.5: must be an integer, like 1000 or 1e6",
    "steps=": "steps=: must be an integer, like 1000 or 1e6",
    "steps=0": "steps=0: must be > 0",
    "steps=1,2": "steps=1,2: several values are a sweep, which needs -m",
    "steps=${nothing}": "Interpolation key 'nothing' not found",
    "agent.gamma=1.5": "agent.gamma=1.5: must be <= 1",
    "minutes=nan": "minutes=nan: must be a finite number",
    "agent.net_arch=64": "agent.net_arch=64: must be a list, like agent.net_arch=[64,64]",
    "agent.activation=tahn": "agent.activation=tahn: must be one of tanh, relu - did you mean agent.activation=tanh?",
    "log=3": "log=3: log is a group of keys, like log.every=...",
    "env.kwargs=3": "env.kwargs=3: must be names and values",
    "run.name=a(b)": "run.name=a(b): not in Hydra's grammar; in quotes any text is: 'run.name=\"a(b)\"'",
    "run.name=caf\udce9": r"'run.name=caf\udce9': holds bytes that are not UTF-8",
    "generate last prompt=caf\udce9": r"'prompt=caf\udce9': holds bytes that are not UTF-8",
    # code in a config
    "+env.kwargs.x._target_=os.getcwd": "+env.kwargs.x._target_=os.getcwd: `_target_` is refused",
    "env.kwargs={_target_:os.getcwd}": "env.kwargs={_target_:os.getcwd}: `_target_` is refused",
    # sweeps
    "-m seed=1,2 agent=ppo,ppx": "agent=ppx not found - did you mean agent=ppo? (in job seed=1 agent=ppx)",
    "-m agent.gamma=interval(0,1)": "agent.gamma=interval(0,1): a sweep needs a list of values",
    "-m seed=1,2 hydra.launcher._target_=os.getcwd": "hydra.launcher._target_=os.getcwd: `_target_` is refused",
    # commands on a run
    "evaluate": "evaluate needs a run: rlgym evaluate RUN",
    "evaluate episodes=3": "evaluate needs a run",
    "evaluate last episode=3": "unknown key episode - did you mean episodes?",
    "evaluate last episodes=x": "episodes=x: must be an integer",
    "evaluate last episodes=0": "episodes=0: must be > 0",
    "evaluate last checkpoint=bset": "checkpoint=bset: must be best, latest or the N",
    "evaluate last 3": "3: words are key=value",
    "play last render=vido": "render=vido: must be one of auto, video, window, terminal - did you mean render=video?",
    "resume last trust=maybe": "trust=maybe: must be true or false",
    "rerun": "rerun needs a run",
    "rerun last trust=x": "trust=x: must be true or false",
    "runs nowhere": "nowhere: no such folder",
    "evaluate nowhere": "no run 'nowhere'",
    "resume last": "last: no run",
}


@pytest.mark.parametrize("words", WRONG)
def test_one_line_exit_2_nothing_written(words: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    answer = command(*words.split(" "))
    assert answer.code == 2
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    assert line.startswith("rlgym: ")
    assert WRONG[words] in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["agent=ppx", "env=CartPoel-v1", "-m seed=1,2 steps=0", "evalute last"])
def test_the_same_from_a_shell(words: str, shell: Callable[..., Answer], tmp_path: Path) -> None:
    answer = shell(*words.split(" "))
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("rlgym: ")
    assert list(tmp_path.iterdir()) == []


def test_unknown_env_is_named_with_the_nearest(command: Callable[..., Answer]) -> None:
    answer = command("env=CartPoel-v1")
    assert answer.code == 2 and "CartPoel-v1" in answer.err and "CartPole-v1" in answer.err
