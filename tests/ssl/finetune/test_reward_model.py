"""The reward model: its loss by hand, both sides in one batch, what padding and parts leave alone, and its products."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlgym
from rlgym.cli.main import main
from rlgym.config.compose import compose
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import open_checkpoint
from rlgym.ssl.finetune.reward_model import RewardModelling, bradley_terry
from tests.ssl.finetune import pairs
from tests.ssl.finetune.starts import Starts

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    return pairs.pretrained(tmp_path_factory.mktemp("parent") / "run", text)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.fixture
def learner(parent: Path, table: Path) -> Callable[..., RewardModelling]:
    def make(*more: str) -> RewardModelling:
        return RewardModelling(compose(pairs.words(parent, table, "reward_model", *more), "finetune"))

    return make


# ---- the mathematics


def test_loss_by_hand() -> None:
    chosen, rejected = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 1.0])
    margin = torch.tensor([0.5, 0.25])
    expected = [math.log(1 + math.exp(-(1.0 - 0.5))), math.log(1 + math.exp(3.25))]
    assert bradley_terry(chosen, rejected, margin).tolist() == pytest.approx(expected)
    assert float(bradley_terry(chosen, chosen)[0]) == pytest.approx(math.log(2))


def test_rewards_are_those_of_each_answer_alone(learner: Callable[..., RewardModelling]) -> None:
    """Neither padding, nor the other answers of the batch, nor the order of the two sides matters."""
    one = learner()
    one.model.eval()
    rows = one.train[:6].tolist()
    with torch.no_grad():
        chosen, rejected = one.rewards(one.collate(rows))
        for place, row in enumerate(rows):
            for found, side in ((chosen, one.tokens[row].chosen), (rejected, one.tokens[row].rejected)):
                hidden = one.start.model(torch.tensor([side]))[0, -1]
                assert float(found[place]) == pytest.approx(float(one.model.head(hidden)), abs=1e-5)


def test_the_loss_of_a_batch(learner: Callable[..., RewardModelling]) -> None:
    """With margins and centring: the sums of the formulas over the pairs."""
    one = learner("method.margin=gap", "method.center_rewards_coefficient=0.5")
    part = one.collate(one.train[:5].tolist())
    chosen, rejected = one.rewards(part)
    assert part["margin"].tolist() == pytest.approx([one.pairs[i].margin for i in one.train[:5]])
    expected = 0.0
    for good, bad, margin in zip(chosen.tolist(), rejected.tolist(), part["margin"].tolist(), strict=True):
        expected += math.log(1 + math.exp(-(good - bad - margin))) + 0.5 * (good + bad) ** 2
    assert one.loss(part)[0].item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(learner: Callable[..., RewardModelling]) -> None:
    found = []
    for cut in (1, 4):
        one = learner(f"gradient_accumulation_steps={cut}", "optimizer.max_grad_norm=1e9")
        assert len(one.batch(0)) >= cut
        one.update()
        found.append({name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None})
    assert len(found[0]) > 5
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_tokens_are_counted_without_padding(learner: Callable[..., RewardModelling]) -> None:
    one = learner()
    sides = [one.tokens[i] for part in one.batch(0) for i in part["pair"].tolist()]
    one.update()
    assert len(sides) == 8 and one.progress.step == sum(len(pair.chosen) + len(pair.rejected) for pair in sides)


# ---- a whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, parent: Path, table: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "reward"
    words = pairs.words(parent, table, "reward_model", "tokens=40_000", "optimizer.learning_rate=3e-3")
    assert main(["finetune", *words, f"run.dir={folder}"]) == 0
    return folder


def test_it_learns_and_says_how_sure_it_is(run: Path) -> None:
    final = json.loads((run / "summary.json").read_text())["final"]
    assert final["validation/accuracy"] >= 0.95 and final["validation/loss"] < 0.3
    assert 0 <= final["validation/calibration_error"] <= 0.5 and final["validation/margin"] > 1
    data = json.loads((run / "manifest.json").read_text())["data"]
    assert data["documents"] == 60 and 0 < data["held_out"] < 30


def test_score_is_what_training_saw(run: Path, parent: Path, table: Path) -> None:
    model = rlgym.load(run)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    prompts = [row["prompt"] for row in rows]
    good, bad = (model.score(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected"))
    assert good.dtype == torch.float32 and good.shape == (60,) and float((good > bad).float().mean()) > 0.95
    alone = torch.cat([model.score([p], [row["chosen"]]) for p, row in zip(prompts, rows, strict=True)])
    torch.testing.assert_close(alone, good, rtol=1e-4, atol=1e-5)
    open_end = model.score(prompts, [row["chosen"] for row in rows], [False] * 60)
    assert not torch.allclose(open_end, good), "without an end of text it is another text"
    with pytest.raises(RequestError, match="completion 2: the prompt has"):
        model.score(["a", "b" * 100], ["c", "d"])
    with pytest.raises(RequestError, match="numbers must be equal"):
        model.score(["a"], [])


def test_evaluate_evaluate_its_own_and_other_pairs(run: Path, tmp_path: Path, capsys: Any) -> None:
    final = json.loads((run / "summary.json").read_text())["final"]
    assert main(["evaluate", str(run), "checkpoint=latest"]) == 0
    own = json.loads(max((run / "evaluations").glob("*held_out.json")).read_text())
    assert own["accuracy"] == final["validation/accuracy"] and own["loss"] == pytest.approx(final["validation/loss"])
    other = pairs.write_pairs(tmp_path / "other.jsonl", count=30, seed=5)
    assert main(["evaluate", str(run), f"data={other}"]) == 0
    found = json.loads(max((run / "evaluations").glob("*other.jsonl.json")).read_text())
    assert found["examples"] == 30 and found["accuracy"] > 0.9
    assert sum(row["pairs"] for row in found["reliability"]) == 30
    assert "accuracy" in capsys.readouterr().out


def test_predict_writes_rewards(run: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    assert main(["predict", str(run), f"data={table}", f"out={out}"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 60 and np.mean([row["reward_chosen"] > row["reward_rejected"] for row in rows]) > 0.95
    single = tmp_path / "answers.csv"
    single.write_text('prompt,completion\nthe sun," runs and the moon sings."\nthe sun," RUNS AND THE MOON SINGS."\n')
    assert main(["predict", str(run), f"data={single}", f"out={tmp_path / 'scores.csv'}"]) == 0
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "prompt,completion,reward"
    assert float(lines[1].rsplit(",", 1)[1]) > float(lines[2].rsplit(",", 1)[1])


def test_predict_refuses_a_table_without_answers(run: Path, tmp_path: Path, capsys: Any) -> None:
    table = tmp_path / "other.csv"
    table.write_text("prompt,text\na,b\n")
    assert main(["predict", str(run), f"data={table}"]) == 2
    said = capsys.readouterr().err
    assert "completion" in said and "prompt, text" in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "bert"])
def test_an_export_gives_the_same_rewards(kind: str, text: Path, table: Path, tmp_path: Path) -> None:
    """As the README says how, tokenizer included: with a class of transformers, or by hand for an encoder."""
    start = Starts(text, tmp_path)[kind]
    run = tmp_path / "scorer"
    words = pairs.words(Path(start), table, "reward_model", "tokens=2_000", "optimizer.learning_rate=1e-2")
    assert main(["finetune", *words, f"run.dir={run}"]) == 0
    assert main(["export", str(run)]) == 0
    code = (run / "export" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert ("AutoModelForSequenceClassification" in code) == (kind != "bert")
    asked, answers = ["the sun", "a moon"], [" runs.", " RUNS HIGH."]
    code = code.replace('["a prompt"], ["an answer"]', f"{asked}, {answers}")
    space: dict[str, Any] = {}
    with contextlib.chdir(run / "export"):
        exec(code, space)
    torch.testing.assert_close(
        space["rewards"].detach().flatten(), rlgym.load(run).score(asked, answers), rtol=1e-4, atol=1e-5
    )


def test_low_rank_additions_are_merged(parent: Path, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "lora"
    words = pairs.words(
        parent, table, "reward_model", "adapt.mode=lora", "adapt.rank=2", "optimizer.learning_rate=1e-2"
    )
    assert main(["finetune", *words, f"run.dir={folder}"]) == 0
    model = rlgym.load(folder, "latest")
    assert not any("lora" in name for name, _ in model.model.named_parameters())
    learner = RewardModelling(load_config(folder), folder)
    learner.load_state_dict(open_checkpoint(Run(folder), "latest")[0])
    chosen, _ = learner.score_held_out()
    held = [learner.pairs[i] for i in learner.held]
    found = model.score([pair.prompt for pair in held], [pair.chosen for pair in held])
    torch.testing.assert_close(found, chosen, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", ["masked"])
def test_encoders_score_too(objective: str, tmp_path: Path, text: Path, table: Path) -> None:
    folder = pairs.pretrained(tmp_path / "encoder", text, f"objective={objective}", "model=bert_nano")
    run = tmp_path / "run"
    assert main(["finetune", *pairs.words(folder, table, "reward_model"), f"run.dir={run}"]) == 0
    assert rlgym.load(run).score(["the sun"], [" runs."]).isfinite().all()
