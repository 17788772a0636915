"""Classification from the table to the figures: columns, split, refusals, loss, and what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F

import rlgym
from rlgym.config.compose import compose
from rlgym.errors import RequestError
from rlgym.ssl.config import ParquetData
from rlgym.ssl.finetune import examples, library
from rlgym.ssl.finetune.classification import Classification
from rlgym.ssl.finetune.labeller import Classifier
from tests.ssl.finetune.starts import QUICK, Starts, rows, words, write_table

pytestmark = pytest.mark.usefixtures("cache")


def learner(start: str, table: Path, *more: str) -> Classification:
    return Classification(compose(words(start, table, *more), "finetune"))


@pytest.mark.parametrize(
    "kind", ["bert", "qwen3", *(pytest.param(k, marks=pytest.mark.slow) for k in ("modernbert", "gpt2"))]
)
def test_it_learns_from_every_kind_of_model(kind: str, starts: Starts, table: Path, tmp_path: Path) -> None:
    more = ["method.epochs=40", "optimizer.learning_rate=5e-3", "evaluate.every=10_000", "method.baselines=true"]
    pytest.importorskip("sklearn")
    run = rlgym.finetune(*words(starts[kind], table, *more, f"run.dir='{tmp_path / kind}'"))
    final = run.summary["final"]
    assert final["train/accuracy"] > 0.95 and final["validation/accuracy"] >= 0.85 and final["validation/auc"] > 0.85
    assert {"validation/macro_f1", "validation/calibration_error", "validation/loss"} <= final.keys()
    for name in ("confusion", "roc", "reliability"):
        assert (run.dir / "plots" / f"validation_{name}.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((run.dir / "evaluations" / f"step_{run.summary['steps']}.json").read_text())
    held = record["predictions"]
    assert len(held) == record["examples"] == np.sum(record["confusion"])
    right = sum(one["label"] == one["predicted"] for one in held)
    assert right / len(held) == pytest.approx(final["validation/accuracy"])
    assert set(record["baselines"]) == {"the commonest class", "TF-IDF + logistic regression"}
    for other in record["baselines"].values():
        assert other["gain_low"] <= other["gain"] <= other["gain_high"]
    assert "against TF-IDF" in (run.dir / "log.txt").read_text()
    model = rlgym.load(run)
    assert isinstance(model, Classifier) and model.labels == ["cold", "warm"]
    best = json.loads((run.dir / "evaluations" / f"step_{run.summary['best']['step']}.json").read_text())
    texts = {f"{table}:{number}": row[0] for number, row in enumerate(rows(80), 2)}
    predicted = model.predict([texts[one["row"]] for one in best["predictions"]])
    assert predicted == [one["predicted"] for one in best["predictions"]], "serving reads as training does"
    shares = model.probabilities(["the sun", "ice and snow"])
    assert shares.shape == (2, 2) and shares.sum(1) == pytest.approx([1, 1])
    assert model.predict([]) == []


def test_padding_and_parts_change_nothing(starts: Starts, table: Path) -> None:
    """One batch in one part, in four, and each row alone: the same loss and gradients; neighbours leave no trace."""
    for kind in ("bert", "modernbert", "qwen3"):
        found = []
        for cut in (1, 4, 8):
            one = learner(starts[kind], table, f"gradient_accumulation_steps={cut}", "optimizer.max_grad_norm=1e9")
            parts = one.batch(3)
            assert sum(int(part["weight"]) for part in parts) == 8 and len(parts) >= cut
            metrics = one.descend(parts)
            gradients = {name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None}
            found.append((float(metrics["train/loss"]), gradients))
        for loss, gradients in found[1:]:
            assert loss == pytest.approx(found[0][0], rel=1e-5)
            for name, gradient in gradients.items():
                torch.testing.assert_close(gradient, found[0][1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_loss_by_hand(starts: Starts, table: Path) -> None:
    """Focal loss and class weights from the definition (Lin et al. 2017, equation 5)."""
    more = ["method.focal_gamma=2", "method.class_weights=true", "method.label_share=0.5"]
    one = learner(starts["bert"], table, *more)
    part = one.collate(one.train[:5].tolist())
    logits = one.logits(part)
    counts = np.bincount(one.targets[one.train], minlength=2)
    expected = torch.zeros(())
    for row, label in zip(logits, part["targets"], strict=True):
        p = F.softmax(row, 0)[label]
        expected = expected - counts.sum() / (2 * counts[int(label)]) * (1 - p) ** 2 * p.log()
    assert float(one.loss(part)[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_duplicates_stay_on_one_side_and_classes_keep_their_shares() -> None:
    texts = [f"text {i // 3}" for i in range(300)]  # each three times
    labels = ["rare" if i < 60 else "common" for i in range(300)]
    held = examples.split([examples.same_text(t.upper()) for t in texts], 0.2, 1, labels)
    assert not {t for t, h in zip(texts, held, strict=True) if h} & {
        t for t, h in zip(texts, held, strict=True) if not h
    }
    for label in ("rare", "common"):
        mine = held[[one == label for one in labels]]
        assert mine.mean() == pytest.approx(0.2, abs=0.03)
    few = examples.share_of(np.flatnonzero(~held), 0.05, 1, [labels[i] for i in np.flatnonzero(~held)])
    assert len(few) == pytest.approx(12, abs=1) and {labels[i] for i in few} == {"rare", "common"}


def test_columns_are_found(starts: Starts, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", header=("words", "weather", "size"))
    one = learner(starts["bert"], table, "method.label=weather")
    assert (one.config.method.text, one.config.method.label) == ("words", "weather")
    named = write_table(tmp_path / "n.csv", header=("Message", "Category", "size"))
    assert learner(starts["bert"], named).config.method.label == "Category"


def broken(path: Path, *lines: str) -> Path:
    path.write_text(
        "text,label\n" + "".join(f"{text},{label}\n" for text, label, _ in rows(40)) + "\n".join(lines) + "\n"
    )
    return path


REFUSED: dict[str, tuple[list[str], list[str], str]] = {
    "missing column": ([], ["method.label=kind"], "method.label=kind: no such column in .*, which has: text, label"),
    "empty label": (["a text,"], [], r"1 row cannot be used, the first is .*t.csv:42: label is empty"),
    "nan label": (["a text,NaN", "b,nan"], [], r"2 rows cannot be used, the first is .*t.csv:42: label is NaN"),
    "empty text": ([" ,warm"], [], r"t.csv:42: text is empty; data.bad=skip leaves such out"),
    "unseen": (["once,hot"], ["method.label_share=1", "method.held_out=0.9"], "'hot' is never seen in training|hot"),
    "held out": ([], ["method.held_out=0.999"], "too few to hold out|never seen"),
    "reward": ([], ["reward=length"], "takes no reward"),
    "muon": ([], ["optimizer=muon", "adapt.mode=head"], "optimizer=muon needs whole matrices"),
    "layers": ([], ["adapt.mode=last", "adapt.layers=9"], "adapt.layers=9: the model has 1 layers"),
}


@pytest.mark.parametrize("case", [name for name in REFUSED if name not in ("unseen", "held out")])
def test_refused_with_one_line(case: str, starts: Starts, tmp_path: Path) -> None:
    lines, more, said = REFUSED[case]
    with pytest.raises(RequestError, match=said):
        learner(starts["bert"], broken(tmp_path / "t.csv", *lines), *more)


def test_one_class_and_no_classes_are_refused(starts: Starts, tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    one.write_text("text,label\n" + "".join(f"text {i},a\n" for i in range(20)))
    with pytest.raises(RequestError, match="every row has 'a'; at least two different values are needed"):
        learner(starts["bert"], one)
    many = tmp_path / "many.csv"
    many.write_text("text,label\n" + "".join(f"text {i},{i}\n" for i in range(20)))
    with pytest.raises(RequestError, match="20 different labels in 20 rows are no classes"):
        learner(starts["bert"], many)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.0, "0", "0.0", " 0.00 ", -0.0], {"0"}),
        ([1, 1.5, "1.50", "1.5"], {"1", "1.5", "1.50"}),
        ([True, "true", "TRUE", "True"], {"True"}),
        ([True, 1, False, 0], {"True", "1", "False", "0"}),
        (["007", "7", "v1.0", "1.0.0"], {"007", "7", "v1.0", "1.0.0"}),
    ],
)
def test_labels_are_told_apart_by_what_they_say(values: list[Any], expected: set[str]) -> None:
    assert {examples.as_label(value) for value in values} == expected


def test_numbers_are_the_same_classes_in_every_format(starts: Starts, tmp_path: Path) -> None:
    """Trained on whole numbers written as fractions, some of them; evaluated on integers of another format. A run that
    began before one rule was kept for both has its own classes."""
    path = tmp_path / "t.jsonl"
    labels = [0.0, 0, 1.0, 1]
    path.write_text("".join(json.dumps({"text": f"text {i}", "label": labels[i % 4]}) + "\n" for i in range(40)))
    words_of = [f"init_from='{starts['bert']}'", "data=jsonl", f"data.path='{path}'", *QUICK]
    one = Classification(compose(words_of, "finetune"))
    assert one.labels == ["0", "1"] and one.targets.tolist() == [i % 4 // 2 for i in range(40)]
    table = pyarrow.table({"text": [f"text {i}" for i in range(4)], "label": [0, 1, 1, 0]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    for kept in (["0", "1"], ["0.0", "1.0"]):
        (tmp_path / "labels.json").write_text(json.dumps({"labels": kept}))
        one.run, one.config.method.held_out = tmp_path, 1.0
        one.config.data = ParquetData(path=[str(tmp_path / "t.parquet")])
        one.prepare()
        assert one.labels == kept and one.targets.tolist() == [0, 1, 1, 0]


def test_skipped_rows_are_counted(starts: Starts, tmp_path: Path) -> None:
    table = broken(tmp_path / "t.csv", "a text,", ",warm")
    one = learner(starts["bert"], table, "data.bad=skip")
    assert one.facts["data"]["bad"] == 2 and len(one.rows) == 40


def test_the_default_examples_share_no_file(starts: Starts) -> None:
    table = library.packages()
    labels = [str(row.values["package"]) for row in table.rows]
    assert 8 <= len(set(labels)) <= 16 and max(map(labels.count, set(labels))) <= 200 and len(labels) > 1_000
    one = Classification(compose([f"init_from='{starts['bert']}'", "method.baselines=false", "threads=1"], "finetune"))
    files = [{str(table.rows[i].values["file"]) for i in part} for part in (one.train.tolist(), one.held.tolist())]
    assert not files[0] & files[1] and 0.1 < len(one.held) / len(labels) < 0.3
    assert set(one.targets[one.held].tolist()) == set(range(len(one.labels))), "every class is evaluated"


def test_without_scikit_learn_it_says_so(starts: Starts, table: Path, monkeypatch: Any) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"needs scikit-learn.*rlgym-ssl\[finetune\].*method.baselines=false"):
        learner(starts["bert"], table, "method.baselines=true")


def test_random_weights_are_others_of_the_same_shape(starts: Starts, table: Path) -> None:
    one, other = learner(starts["bert"], table), learner(starts["bert"], table, "adapt.init=random")
    assert [p.shape for p in one.model.parameters()] == [p.shape for p in other.model.parameters()]
    assert not torch.equal(one.start.model.embedding(), other.start.model.embedding())
    assert other.facts["parent"]["weights"] == "random"
