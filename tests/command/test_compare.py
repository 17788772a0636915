"""`compare`: which runs count and what of them is scored, whether the numbers are right, and what it says of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from tests.command.conftest import ROOT, Answer
from tests.fake_runs import fake_run

GOOD = [480.0, 490.0, 470.0, 500.0, 485.0]
POOR = [100.0, 150.0, 120.0, 90.0, 130.0]


def seeds(root: Path, agent: str, values: list[float], env: str = "CartPole-v1", **more: Any) -> None:
    for seed, value in enumerate(values, 1):
        fake_run(root, agent, env, seed, {1_000: value / 2, 2_000: value}, **more)


def record(answer: Answer, tmp_path: Path) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    loaded: dict[str, Any] = json.loads((tmp_path / "out/comparison.json").read_text())
    return loaded


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds, and one test looks at it."""
    monkeypatch.setattr("rlgym.analysis.plots.curves", lambda evaluated, metric, path: path)
    monkeypatch.setattr("rlgym.analysis.plots.summary", lambda rows, path: path)


numbers_only = pytest.mark.usefixtures("no_pictures")


# ---- the whole


def test_a_comparison_from_folders_to_files(command: Callable[..., Answer], tmp_path: Path) -> None:
    for env in ("CartPole-v1", "Acrobot-v1"):
        sign = 1 if env == "CartPole-v1" else -1
        seeds(tmp_path / "runs", "ppo", [sign * v for v in (GOOD if sign > 0 else POOR)], env)
        seeds(tmp_path / "runs", "dqn", [sign * v for v in (POOR if sign > 0 else GOOD)], env)
    answer = command("compare", "out=out")
    found = record(answer, tmp_path)
    assert answer.err == ""
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"comparison.md", "comparison.json", "curves.png", "summary.png"}
    assert (tmp_path / "out/comparison.md").read_text() in answer.out
    for picture in ("curves.png", "summary.png"):
        assert (tmp_path / "out" / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = {(row["env"], row["agent"]): row for row in found["environments"]}
    assert len(rows) == 4 and len(found["runs"]) == 20
    ppo = rows["CartPole-v1", "ppo"]
    assert ppo["seeds"] == 5 and ppo["values"]["IQM"][0] == pytest.approx(scipy.stats.trim_mean(GOOD, 0.25))
    assert ppo["values"]["median"][0] == 485 and ppo["values"]["mean"][0] == 485
    low, high = ppo["values"]["mean"][1:]
    reference = scipy.stats.bootstrap((GOOD,), np.mean, method="percentile", n_resamples=20_000, rng=1)
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval), abs=1.0)
    (pair,) = found["pairs"]
    assert (pair["a"], pair["b"], pair["real"]) == ("ppo", "dqn", True)
    assert pair["improvement"][0] == 1 and pair["p"] == pytest.approx(2 / math.comb(10, 5) ** 2)
    better = "ppo is better than dqn on Acrobot-v1, CartPole-v1: significant at 95 % (p < 0.001, 5 against 5"
    assert better in answer.out
    assert "## Over 2 environments" in answer.out


@numbers_only
def test_equal_agents_and_too_few_seeds_are_said_to_be_so(command: Callable[..., Answer], tmp_path: Path) -> None:
    seeds(tmp_path / "runs", "ppo", GOOD[:3])
    seeds(tmp_path / "runs", "dqn", POOR[:3])
    answer = command("compare", "out=out")
    (pair,) = record(answer, tmp_path)["pairs"]
    assert not pair["real"] and pair["p"] == pytest.approx(0.1) and pair["improvement"][0] == 1
    assert "ppo and dqn on CartPole-v1: no significant difference at 95 % (p = 0.1, 3 against 3 seeds)" in answer.out
    assert "With so few seeds no difference is significant: it takes 4 of each." in answer.out
    assert "some have only 3 seeds" in answer.out


@numbers_only
def test_several_pairs_share_the_five_per_cent(command: Callable[..., Answer], tmp_path: Path) -> None:
    for agent, values in (("a", GOOD[:4]), ("b", POOR[:4]), ("c", [v + 1 for v in POOR[:4]])):
        seeds(tmp_path / "runs", agent, values)
    answer = command("compare", "out=out")
    pairs = record(answer, tmp_path)["pairs"]
    alone = 2 / math.comb(8, 4)  # 0.029, real if it were the only pair
    assert sorted(pair["p"] for pair in pairs)[:2] == pytest.approx([3 * alone, 3 * alone])
    assert not any(pair["real"] for pair in pairs) and "adjusted for 3 pairs (Holm)" in answer.out


# ---- which runs count


@numbers_only
def test_runs_by_folder_glob_part_of_a_name_and_filter(command: Callable[..., Answer], tmp_path: Path) -> None:
    seeds(tmp_path / "runs", "ppo", GOOD)
    seeds(tmp_path / "runs", "dqn", POOR)
    seeds(tmp_path / "other=1", "sac", POOR[:2])
    for words, count in (
        (["runs"], 10),
        (["runs", "other=1"], 12),
        (["runs/*ppo*"], 5),
        (["run_ppo", "run_dqn_CartPole-v1_s1"], 6),
        ([str(tmp_path / "runs/run_ppo_CartPole-v1_s1_0")], 1),
        (["agent=dqn,sac"], 5),
        (["runs", "other=1", "agent=*a*"], 2),
    ):
        assert len(record(command("compare", *words, "out=out"), tmp_path)["runs"]) == count, words


@numbers_only
def test_what_is_left_out_is_said_in_one_line(command: Callable[..., Answer], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    seeds(root, "ppo", GOOD)
    fake_run(root, seed=6, status="failed", name="broke")
    fake_run(root, seed=7, status="killed", name="cut", evaluations={500: 30.0})
    fake_run(root, seed=1, evaluations={2_000: 7.0}, hours=9, name="older")
    fake_run(root, seed=8, evaluations={}, name="silent")
    answer = command("compare", "out=out")
    found = record(answer, tmp_path)
    assert sorted(run["score"] for run in found["runs"]) == sorted(GOOD)
    notes = "\n".join(found["notes"])
    assert "2 runs not finished and left out: broke (failed), cut (running)" in notes or "cut (killed)" in notes
    assert "1 older run of a seed that ran again left out, one seed counts once: ppo on CartPole-v1 seed 1" in notes
    assert "1 run without eval/mean_reward left out: silent" in notes
    counted = record(command("compare", "out=out", "unfinished=true"), tmp_path)
    assert {run["seed"]: run["score"] for run in counted["runs"]}[7] == 30.0


@numbers_only
def test_budgets_that_differ_and_scores_at_one_step(command: Callable[..., Answer], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    seeds(root, "ppo", GOOD)
    for seed in (1, 2, 3):
        fake_run(root, "dqn", seed=seed, evaluations={1_000: 50.0 + seed, 4_000: 400.0})
    first = record(command("compare", "out=out"), tmp_path)
    assert any("budgets on CartPole-v1 differ (" in note and "at=2000 compares" in note for note in first["notes"])
    second = record(command("compare", "out=out", "at=2000"), tmp_path)
    assert sorted(run["score"] for run in second["runs"] if run["agent"] == "dqn") == [51, 52, 53]
    assert "up to step 2,000" in second["runs"][0]["source"]


@numbers_only
def test_runs_that_were_not_the_same_experiment(command: Callable[..., Answer], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for rate, values in ((0.1, GOOD), (0.2, POOR)):
        for seed, value in enumerate(values, 1 if rate == 0.1 else 11):
            more = {"agent.learning_rate": rate, "log.every": seed, "run.dir": str(seed)}
            fake_run(root, seed=seed, evaluations={2_000: value}, config=more)
    mixed = record(command("compare", "out=out"), tmp_path)
    assert mixed["notes"] == [
        "the runs of ppo on CartPole-v1 differ in agent.learning_rate: by=agent.learning_rate sets them apart"
    ]
    split = record(command("compare", "out=out", "by=agent.learning_rate"), tmp_path)
    assert [row["agent"] for row in split["environments"]] == ["ppo learning_rate=0.1", "ppo learning_rate=0.2"]
    assert split["pairs"][0]["real"] and split["notes"] == []


# ---- what is scored


@numbers_only
def test_the_best_source_that_all_runs_have(command: Callable[..., Answer], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    seeds(root, "ppo", GOOD, evaluated=300.0)
    fake_run(root, "ppo", seed=9, evaluations={2_000: 11.0})
    found = record(command("compare", "out=out"), tmp_path)
    assert sorted(run["score"] for run in found["runs"]) == [11.0, *sorted(GOOD)]
    assert "`evaluate RUN` has evaluated 5 of 6 runs: evaluate them all to compare by that" in found["notes"]
    evaluated = record(command("compare", "out=out", "score=evaluate"), tmp_path)
    assert [run["score"] for run in evaluated["runs"]] == [300.0] * 5
    assert evaluated["runs"][0]["source"] == "mean_reward of `evaluate RUN`, checkpoint best, 1 fresh episodes"
    for seed in (1, 2):
        fake_run(tmp_path / "plain", seed=seed, evaluations={10: 5.0 + seed}, tag="rollout/ep_rew_mean")
    plain = record(command("compare", "plain", "out=out"), tmp_path)
    assert [run["score"] for run in plain["runs"]] == [6.0, 7.0]
    assert "the return while training" in plain["runs"][0]["source"]


@numbers_only
def test_text_is_scored_by_its_loss_and_less_is_better(command: Callable[..., Answer], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    text: dict[str, Any] = {"env": "stdlib", "tag": "validation/loss"}
    seeds(root, "next_token_gpt_mini", [1.0, 1.1, 1.2, 0.9, 1.05], **text)
    seeds(root, "next_token_gpt_nano", [2.0, 2.1, 2.2, 1.9, 2.05], **text)
    answer = command("compare", "out=out")
    found = record(answer, tmp_path)
    assert found["lower_is_better"] and "lower is better" in answer.out
    (pair,) = found["pairs"]
    assert (pair["a"], pair["real"]) == ("next_token_gpt_mini", True)
    gaps = {row["agent"]: row["values"]["optimality gap"][0] for row in found["environments"]}
    assert gaps["next_token_gpt_mini"] < gaps["next_token_gpt_nano"] <= 1
    seeds(root, "masked_bert", [3.0], config={"objective.name": "masked"}, **text)
    assert "masked and next_token is not of the same thing" in command("compare").err
    fake_run(root, "ppo")
    mixed = command("compare")
    assert mixed.code == 2 and "runs of train and of pretrain, which nothing compares" in mixed.err


@numbers_only
def test_units_given_known_or_of_the_runs_compared(command: Callable[..., Answer], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    seeds(root, "ppo", [10.0, 20.0, 30.0], "Mine-v0")
    own = record(command("compare", "out=out"), tmp_path)
    assert own["scales"] == {"Mine-v0": [10.0, 30.0]}
    assert own["environments"][0]["values"]["optimality gap"][0] == pytest.approx(0.5)
    given = command("compare", "out=out", "scores=Mine-v0:0:40")
    assert record(given, tmp_path)["environments"][0]["values"]["optimality gap"][0] == pytest.approx(0.5)
    assert "Mine-v0 0 and 40 (given)" in given.out
    seeds(root, "ppo", [475.0], "CartPole-v1")
    assert "and 475 (random and solved)" in command("compare", "env=CartPole-v1", "out=out").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nowhere", "no run 'nowhere'"),
        ("runs/zzz*", "runs/zzz*: fits no run folder"),
        ("agent=zzz", "agent=zzz: fits none of 3 runs"),
        ("by=agent.zzz", "by=agent.zzz: no run has such a key"),
        ("metric=eval/zzz", "none of 3 runs has eval/zzz"),
        ("scores=CartPole-v1:3", "scores=CartPole-v1:3: must be ENV:LOW:HIGH"),
        ("scores=CartPole-v1:3:3", "must be two finite numbers that differ"),
        ("scores=CartPoel-v1:3:4", "no run is of CartPoel-v1 - did you mean CartPole-v1?"),
        ("at=5 score=evaluate", "is about one checkpoint"),
        ("since=yesterday", "since=yesterday: must be a day like"),
        ("scor=auto", "no run 'scor=auto'"),
        ("score=zzz", "score=zzz: must be one of auto, evaluate"),
    ],
)
def test_wrong_requests(words: str, said: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    seeds(tmp_path / "runs", "ppo", GOOD[:3])
    before = sorted(tmp_path.rglob("*"))
    answer = command("compare", *words.split())
    assert (answer.code, answer.out) == (2, "") and len(answer.err.splitlines()) == 1
    assert said in answer.err
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_to_compare(command: Callable[..., Answer], tmp_path: Path) -> None:
    assert "no runs under runs" in command("compare").err
    fake_run(tmp_path / "runs", status="failed")
    assert "none of 1 runs is finished" in command("compare").err


def test_comparing_imports_neither_torch_nor_hydra(tmp_path: Path) -> None:
    seeds(tmp_path / "runs", "ppo", GOOD)
    code = "import sys; from rlgym.cli.main import main; main(['compare']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert (
        loaded & {"torch", "hydra", "omegaconf", "gymnasium", "tensorboard", "pandas", "scipy", "transformers"} == set()
    )
    assert "pyplot" not in done.stderr


@numbers_only
def test_runs_are_scored_by_what_they_are_monitored_by(command: Callable[..., Answer], tmp_path: Path) -> None:
    root, direction = tmp_path / "runs", {"tag": "eval/nash_conv", "monitor": ["eval/nash_conv", "min"]}
    for seed in range(5):
        for agent, value in (("nfsp", 0.1), ("nfsp_plain", 0.5)):
            fake_run(root, agent, "kuhn_poker", seed, {100: value + seed / 100}, **direction)  # type: ignore[arg-type]
    found = record(command("compare", "out=out"), tmp_path)
    assert (found["metric"], found["lower_is_better"], found["pairs"][0]["a"]) == ("eval/nash_conv", True, "nfsp")
    fake_run(root, "ppo", "kuhn_poker", 1, monitor=["eval/mean_reward", "max"])
    answer = command("compare", "out=both", "agent=ppo,nfsp")
    assert "monitored by eval/mean_reward and eval/nash_conv: scored by eval/mean_reward" in answer.out + answer.err
