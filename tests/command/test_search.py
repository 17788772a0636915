"""`sweep`: what a range means, what is refused, a small real search, and that it goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlgym.common.atomic_io import to_json
from rlgym.config.built_in import BUILT_IN
from rlgym.config.compose import compose, revise
from rlgym.config.groups import roots
from rlgym.errors import RequestError
from rlgym.sweeps import tune
from rlgym.sweeps.search_space import Axis, axis, default_space, hint_of, split
from tests.command.conftest import ROOT, Answer

optuna = pytest.importorskip("optuna")

TINY = ["env=CartPole-v1", "tuned=off", "env.num_envs=2", "steps=256", "evaluate.every=128", "evaluate.episodes=1"]
TINY += ["agent.batch_size=32", "agent.n_epochs=1", "compile=off"]


# ---- ranges


@cache
def plain() -> Any:
    return compose([])


def of(key: str, text: str) -> Axis:
    return axis(key, text, hint_of(plain(), key))


def test_a_range_is_what_hydra_says_it_is() -> None:
    words = ["env=CartPole-v1", "agent.gamma=choice(0.9,0.99)", "+agent.n_steps=32,64", "agent.clip_range=0.1"]
    assert split(words) == (
        ["env=CartPole-v1", "agent.clip_range=0.1"],
        {"agent.gamma": "choice(0.9,0.99)", "agent.n_steps": "32,64"},
    )
    assert of("agent.n_steps", "range(32,129,32)").texts == ("32", "64", "96", "128")
    assert of("agent.n_steps", "range(32,129,32)").distribution() == optuna.distributions.IntDistribution(0, 3)
    assert of("agent.gamma", "0.9,0.99").distribution() == optuna.distributions.CategoricalDistribution(("0.9", "0.99"))
    rate = of("agent.learning_rate", "tag(log,interval(1e-4,1e-2))")
    assert rate.distribution() == optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
    assert rate.word(0.00123456) == "agent.learning_rate=0.001235"
    assert of("agent.n_steps", "interval(3,9)").distribution() == optuna.distributions.IntDistribution(3, 9)
    assert of("agent.gamma", "int(interval(0,1))").distribution() == optuna.distributions.IntDistribution(0, 1)
    net = of("agent.net_arch", "choice([64,64],[256])")
    assert [net.word(text) for text in net.texts] == ["agent.net_arch=[64,64]", "agent.net_arch=[256]"]
    assert revise(plain(), [net.word(net.texts[0])]).agent.net_arch == [64, 64]


def test_where_a_config_lies_on_its_axes() -> None:
    assert of("agent.n_steps", "range(32,129,32)").point(64) == 1
    assert of("agent.gamma", "choice(0.9,0.99)").point(0.99) == "0.99"
    assert of("agent.gamma", "choice(0.9,0.99)").point(0.95) is None
    assert of("agent.gamma", "interval(0.9,0.99)").point(0.95) == 0.95
    assert of("agent.gamma", "interval(0.9,0.99)").point(0.8) is None
    assert of("agent.net_arch", "choice([64,64],[256])").point([64, 64]) == "[64,64]"
    assert of("agent.squash", "choice(true,false)").point(False) == "False"
    assert of("agent.target_kl", "null,0.01").point(None) == "null"


def test_a_rounded_value_stays_in_its_range() -> None:
    narrow = Axis("x", low=0.99999, high=0.999999)
    assert 0.99999 <= float(narrow.word(0.9999944).split("=")[1]) <= 0.999999


@pytest.mark.parametrize("name", [entry.name for entry in BUILT_IN["agent"]])
def test_ranges_of_an_agent_are_of_keys_it_has_and_values_they_take(name: str) -> None:
    if not any((tree / "search" / f"{name}.yaml").is_file() for tree in roots()):
        with pytest.raises(RequestError, match="has no ranges of its own"):
            default_space(name, None)
        return
    base = compose([f"agent={name}"])
    for key, text in default_space(name, None).items():
        for word in axis(key, text, hint_of(base, key)).ends():
            revise(base, [word])


WRONG = {
    "agent=ppo,dqn": "agent=ppo,dqn: a sweep is of one agent",
    "seed=1,2": "seed=1,2: seed cannot be searched, seeds=N says",
    "agent.gamma=interval(0.9,1.5)": "agent.gamma=1.5: must be <= 1",
    "agent.n_stepz=1,2": "unknown key agent.n_stepz - did you mean agent.n_steps?",
    "agent.activation=interval(1,2)": "agent.activation is not a number; choice(a,b)",
    "agent.activation=tanh,tahn": "did you mean agent.activation=tanh?",
    "agent.gamma=interval(0.9,0.8)": "must go from a smaller to a larger number",
    "agent.gamma=tag(log,interval(0,1))": "a logarithmic range begins above 0",
    "agent.gamma=tag(lgo,interval(0.1,1))": "the tag lgo is unknown",
    "agent.gamma=tag(log,choice(0.1,1))": "log is for interval()",
    "agent.gamma=choice(0.1)": "there is nothing to choose from",
    "agent.gamma=log(0.1,1)": "not in Hydra's grammar",
    "trials=0": "trials=0: must be > 0",
    "score=zzz": "score=zzz: must be one of last, best, mean",
    "env=CartPoel-v1": "CartPole-v1",
    "nowhere": "no sweep 'nowhere' under runs/",
    "last": "no sweep 'last' under runs/",
    "-m trials=2": "-m is for train, pretrain, finetune; sweep takes one run",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_requests_write_nothing(words: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    answer = command("sweep", *words.split())
    assert (answer.code, answer.out) == (2, "") and len(answer.err.splitlines()) == 1
    assert WRONG[words] in answer.err
    assert list(tmp_path.iterdir()) == []


def test_without_optuna(command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = command("sweep")
    assert answer.code == 2 and "pip install 'rlgym-ssl[sweep]'" in answer.err


# ---- a search


def test_a_search_goes_on_where_it_stopped_and_writes_what_it_found(
    command: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    space = "agent.learning_rate=tag(log,interval(1e-5,1e-1))"
    words = [*TINY, space, "seeds=2", "--config-dir", "own", "run.dir=found", "agent.gae_lambda=0.9"]
    answer = command("sweep", *words, "trials=1")
    assert answer.code == 0, answer.err
    found = tmp_path / "found"
    runs = sorted(path.name for path in found.iterdir() if path.is_dir())
    assert runs == ["trial_1_s1", "trial_1_s2"]
    saved = yaml.safe_load((found / "trial_1_s2/config.yaml").read_text())
    assert (saved["seed"], saved["agent"]["learning_rate"]) == (2, 2.5e-4)  # the config as it stood comes first
    assert listed(command("runs", "found")) == set(runs)

    answer = command("sweep", "found", "trials=2", "overwrite=true")
    assert answer.code == 0 and "1 of 2 trials done" in answer.err, answer.err
    assert (found / "trial_2_s2/summary.json").exists()
    trials = json.loads((found / "trials.json").read_text())["trials"]
    assert {trial["trial"] for trial in trials} == {1, 2} and all(t["state"] == "complete" for t in trials)
    for trial in trials:
        last = [json.loads((found / f"trial_{trial['trial']}_s{s}/summary.json").read_text()) for s in (1, 2)]
        assert trial["score"] == pytest.approx(sum(run["final"]["eval/mean_reward"] for run in last) / 2)
    assert trials[0]["score"] == max(trial["score"] for trial in trials)
    assert command("sweep", "found").code == 0, "nothing is left to do"
    wrong = command("sweep", "found", "seeds=5")
    assert wrong.code == 2 and "seeds=5: a sweep goes on as it began" in wrong.err
    wrong = command("sweep", "found", "agent.gamma=0.5")
    assert wrong.code == 2 and "agent.gamma=0.5: a sweep goes on as it began" in wrong.err
    assert "is not empty" in command("sweep", *words).err


def listed(answer: Answer) -> set[str]:
    return {line.split()[0] for line in answer.out.splitlines()[1:]}


def fake_answers(monkeypatch: pytest.MonkeyPatch, value: Callable[[Any, int], float]) -> list[Any]:
    """Trainings that take no time: evaluation `i` of a config gives `value(config, i)`."""
    from types import SimpleNamespace

    configs = []

    def run_training(config: Any, command: Any, fail: Any = None, watch: Any = None) -> Any:
        configs.append(config)
        for number in range(1, 11):
            reason = watch(number * config.steps // 10, value(config, number))
            if reason is not None:
                return SimpleNamespace(exit_code=0, summary={"status": "stopped", "reason": reason})
        return SimpleNamespace(exit_code=0, summary={"status": "finished"})

    monkeypatch.setattr("rlgym.training.train.run_training", run_training)
    monkeypatch.setattr("rlgym.training.train.check_request", lambda config: None)
    return configs


def test_it_finds_the_best_and_prunes_the_poor(
    command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hill over gamma and the step size, whose top is known."""
    fake_answers(
        monkeypatch,
        lambda c, i: i * (1 - 20 * abs(c.agent.gamma - 0.95) - abs(c.agent.n_steps - 64) / 64) + 0.01 * c.seed,
    )
    words = ["env=Acrobot-v1", "agent.gamma=interval(0.9,0.9999)", "agent.n_steps=range(32,129,16)", "seeds=2"]
    answer = command("sweep", *words, "trials=30", "--config-dir", ".", "run.dir=found")
    assert answer.code == 0, answer.err
    trials = json.loads((tmp_path / "found/trials.json").read_text())["trials"]
    assert len(trials) == 30 and sum(trial["state"] == "pruned" for trial in trials) >= 5
    assert trials[0]["score"] > 9, trials[0]
    (file,) = (tmp_path / "tuned/ppo").iterdir()  # the package has values of its own for this pair: these come first
    assert file.name == "Acrobot-v1.yaml" and file.read_text().startswith("# @package _global_\n# found by")
    best = compose([*words[:1], *trials[0]["words"]])
    reached = compose(["env=Acrobot-v1"], config_dir=str(tmp_path))
    assert (reached.agent, reached.env, reached.steps) == (best.agent, best.env, best.steps)


def test_a_tuned_file_is_picked_up_and_never_replaced_unasked(
    command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_answers(monkeypatch, lambda c, i: -abs(c.agent.gamma - 0.5))
    words = ["env=MountainCarContinuous-v0", "agent.gamma=choice(0.99,0.5)", "seeds=1", "--config-dir", "."]
    first = command("sweep", *words, "trials=4")
    assert first.code == 0, first.err
    file = tmp_path / "tuned/ppo/MountainCarContinuous-v0.yaml"
    assert yaml.safe_load(file.read_text()) == {"agent": {"gamma": 0.5}}
    assert f"written to {Path('tuned/ppo/MountainCarContinuous-v0.yaml')}" in first.out.replace(f"{tmp_path}/", "")
    assert compose(["env=MountainCarContinuous-v0"], config_dir=str(tmp_path)).agent.gamma == 0.5
    file.write_text("# @package _global_\nagent:\n  gamma: 0.7\n")
    again = command("sweep", *words, "trials=4", "run.dir=b")
    assert "stays in force; overwrite=true would have replaced it" in again.out
    assert "0.7" in file.read_text() and len(list(file.parent.iterdir())) == 2
    over = command("sweep", *words, "trials=4", "run.dir=c", "overwrite=true")
    assert "replaced " in over.out and "gamma: 0.5" in file.read_text()


def test_nothing_better_writes_no_file(
    command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_answers(monkeypatch, lambda c, i: c.agent.gamma)
    answer = command("sweep", "agent.gamma=choice(0.99,0.5)", "trials=3", "seeds=1", "--config-dir", ".")
    assert answer.code == 0 and "nothing found was better, and no file is written" in answer.out
    assert not (tmp_path / "tuned").exists()


def test_a_persons_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an installation the file goes into the person's config folder, which every command reads."""
    from rlgym.config import tuned

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert tuned.target(None) == ROOT / "conf/tuned"
    monkeypatch.setattr(tuned, "CHECKOUT", tmp_path / "site-packages")
    assert tuned.target(None) == tmp_path / "rlgym/tuned"
    lines = tuned.write_tuned("ppo", "Taxi-v4", ["env=Taxi-v4", "agent.gamma=0.9"], None, False, "a test")
    assert lines[-1] == "it is picked up by: agent=ppo env=Taxi-v4"
    assert compose(["env=Taxi-v4"]).agent.gamma == 0.9
    assert compose(["env=Taxi-v4"], config_dir=str(tmp_path)).agent.gamma == 0.99  # --config-dir stands in its place
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(tuned, "target", lambda config_dir: tmp_path / "checkout/conf/tuned")
    kept, use = tuned.write_tuned("ppo", "Taxi-v4", ["env=Taxi-v4", "agent.gamma=0.8"], None, False, "a test")
    assert f"{tmp_path / 'rlgym/tuned/ppo/Taxi-v4.yaml'} stays in force" in kept and " tuned=ppo/Taxi-v4_" in use


def test_after_a_power_cut(command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that the record says is running has no process any more; while it has one, nobody else may go on."""
    from rlgym.sweeps.tune import axes_of, open_study

    fake_answers(monkeypatch, lambda c, i: -abs(c.agent.gamma - 0.5))
    words = ["agent.gamma=interval(0.1,0.9)", "trials=2", "seeds=1", "--config-dir", ".", "run.dir=found"]
    assert command("sweep", *words).code == 0
    found = tmp_path / "found"
    cut = open_study(found).ask({axis.key: axis.distribution() for axis in axes_of(found)})
    request = json.loads((found / "sweep.json").read_text())
    (found / "sweep.json").write_text(json.dumps(request | {"process": request["process"] | {"pid": 1}}))
    monkeypatch.setattr("rlgym.sweeps.tune.alive", lambda pid, start: True)
    busy = command("sweep", "found", "trials=3")
    assert busy.code == 2 and "found is being worked on by process 1" in busy.err
    monkeypatch.setattr("rlgym.sweeps.tune.alive", lambda pid, start: False)
    answer = command("sweep", "found", "trials=3")
    assert answer.code == 0 and "2 of 3 trials done" in answer.err, answer.err
    trials = {row["trial"]: row for row in json.loads((found / "trials.json").read_text())["trials"]}
    assert trials[3]["state"] == "interrupted" and trials[4]["state"] == "complete"
    assert trials[4]["words"] == ["agent.gamma=" + str(float(f"{cut.params['agent.gamma']:.4g}"))]


FOREIGN: dict[str, tuple[dict[str, str | None], str]] = {
    "agent=evil:Agent": ({}, "agent.name=evil:Agent names code to import: add trust=true"),
    "env=evil:CartPole-v1": ({}, "env.id=evil:CartPole-v1 names code to import"),
    "agent=mine": ({"agent/mine": "name: evil:Agent"}, "agent.name=evil:Agent names code to import"),
    "env=mine": ({"env/mine": "id: evil:CartPole-v1"}, "env.id=evil:CartPole-v1 names code to import"),
    "env=Acrobot-v1": ({"env/Acrobot-v1": "id: evil:A-v0"}, "env.id=evil:A-v0 names code to import"),
    "experiment=mine": ({"experiment/mine": "env:\n  id: evil:A-v0"}, "env.id=evil:A-v0 names code to import"),
    "agent.gamma=0.9": ({"tuned/ppo/CartPole-v1": "agent:\n  name: evil:A"}, "agent.name=evil:A names code to import"),
    "env.kwargs={x: ['evil:A-v0']}": ({}, "env.kwargs.x.0=evil:A-v0 names code to import"),
    "env.kwargs={x: '${oc.env:HOME}'}": ({}, "env.kwargs.x=${oc.env:HOME} looks something up on this machine"),
    "agent=bomb": ({"agent/bomb": "a: &a [1]\nb: [*a, *a]"}, "bomb.yaml: it holds aliases; add trust=true"),
    "agent.gamma=0.8": ({"agent/linked": None}, "linked.yaml: a symbolic link; add trust=true"),
}


@pytest.mark.parametrize("word", FOREIGN)
def test_a_foreign_sweep_runs_no_code(word: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    """Whatever it is that names the code: the sweep's words, or configs that lie beside it."""
    files, said = FOREIGN[word]
    for name, text in files.items():
        path = tmp_path / f"beside/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/dev/zero") if text is None else path.write_text(f"{text}\n")
    foreign_sweep(tmp_path / "found", words=[word], config_dir="beside" if files else None)
    before = (tmp_path / "found/sweep.json").read_bytes()
    answer = command("sweep", "found")
    assert answer.code == 2 and answer.err.startswith("rlgym: ") and len(answer.err.splitlines()) == 1, answer.err
    assert said in answer.err
    assert (tmp_path / "found/sweep.json").read_bytes() == before and len(list((tmp_path / "found").iterdir())) == 1
    assert not (tmp_path / "canary").exists() and "evil" not in sys.modules


def test_the_record_of_a_foreign_sweep_runs_no_code(
    command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of its best trial, which become a tuned file, are its own record's."""
    from optuna.trial import create_trial

    from rlgym.sweeps.tune import axes_of, open_study

    foreign_sweep(tmp_path / "found", space={"agent.gamma": "choice(0.9,0.99)"})
    (axis,) = axes_of(tmp_path / "found")
    trial = create_trial(
        value=1.0,
        params={axis.key: "0.9"},
        distributions={axis.key: axis.distribution()},
        user_attrs={"words": ["agent=evil:Agent"]},
    )
    open_study(tmp_path / "found").add_trial(trial)
    answer = command("sweep", "found")
    assert answer.code == 2 and "agent.name=evil:Agent names code to import: add trust=true" in answer.err
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"words": "agent=ppo"}, "words='agent=ppo': not what belongs there"),
        ({"space": {"agent.gamma": [1]}}, "space={'agent.gamma': [1]}: not what belongs there"),
        ({"process": {"host": 1}}, "process={'host': 1}: not what belongs there"),
        ({"jobs": 0}, "jobs=0: must be > 0"),
        ({"zeal": 1}, "zeal"),
        ({"agent": "../../agent"}, "agent=../../agent: must be one name"),
    ],
)
def test_a_request_that_is_none(
    change: dict[str, Any], said: str, command: Callable[..., Answer], tmp_path: Path
) -> None:
    foreign_sweep(tmp_path / "found", **change)
    answer = command("sweep", "found")
    assert answer.code == 2 and said in answer.err and len(answer.err.splitlines()) == 1, answer.err


def foreign_sweep(folder: Path, **changes: Any) -> None:
    """A sweep's folder, and beside it a module that leaves a canary where it is imported."""
    request: dict[str, Any] = {
        "command": [],
        "words": [],
        "lean": [],
        "space": {},
        "agent": "ppo",
        "env": "CartPole-v1",
    }
    request |= {"seed": 1, "seeds": 1, "score": "last", "pruning": True, "trials": 1, "minutes": None, "jobs": 1}
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(request | {"config_dir": None} | changes))
    (folder.parent / "evil.py").write_text("import pathlib; pathlib.Path('canary').touch()\n")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_search_repeats_what_was_cut_short(
    command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM to a search in two processes: checkpoints, exit code 143, and `sweep FOLDER` finishes all trials."""
    (tmp_path / "own").mkdir()
    words = [*TINY[:3], *TINY[4:], "steps=100_000_000", "log.every=128", "agent.gamma=choice(0.9,0.99)"]
    words += ["seeds=1", "jobs=2", "trials=2", "--config-dir", "own", "run.dir=found"]
    line = [sys.executable, "-m", "rlgym", "sweep", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(line, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    found = tmp_path / "found"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if len([path for path in found.glob("trial_*/metrics.jsonl") if path.stat().st_size]) == 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert process.stderr and "go on with: python -m rlgym sweep found" in process.stderr.read()
    for name in ("trial_1_s1", "trial_2_s1"):
        summary = json.loads((found / name / "summary.json").read_text())
        assert summary["status"] == "stopped" and "SIGTERM" in summary["reason"]
        assert yaml.safe_load((found / name / "config.yaml").read_text())["threads"] == 1
    fake_answers(monkeypatch, lambda c, i: c.agent.gamma)
    answer = command("sweep", "found", "jobs=1")
    assert answer.code == 0, answer.err
    trials = json.loads((found / "trials.json").read_text())["trials"]
    states = {trial["trial"]: trial["state"] for trial in trials}
    assert states == {1: "interrupted", 2: "interrupted", 3: "complete", 4: "complete"}
    words_of = {trial["trial"]: trial["words"] for trial in trials}
    assert sorted(map(str, (words_of[1], words_of[2]))) == sorted(map(str, (words_of[3], words_of[4])))


def test_less_is_better_where_the_agent_is_monitored_so(tmp_path: Path) -> None:
    """NFSP's metric is how far it is from an equilibrium."""
    request = tune.Request([], [], [], {}, "nfsp", "kuhn_poker", 1, 1, "last", True, 3, None, 1, None, better="min")
    (tmp_path / "sweep.json").write_text(to_json(asdict(request)))
    study = tune.open_study(tmp_path)
    for value in (0.5, 0.1, 0.3):
        study.add_trial(optuna.trial.create_trial(value=value))
    assert [row["score"] for row in tune.table(study, request)] == [0.1, 0.3, 0.5] and study.best_value == 0.1
