"""Transformers' pipelines on exports of masked and labelled runs say what fill and predict say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlgym
from rlgym.cli.main import main
from tests.ssl import folders, tiny
from tests.ssl.finetune.starts import QUICK, Starts, words
from tests.ssl.finetune.test_export_text import exported, pipeline

pytestmark = pytest.mark.usefixtures("cache")
TEXTS = ["the sun 12", "a tree, the ice", "snow and fire", "Größe"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    place = tmp_path_factory.mktemp("folders")

    def make(kind: str) -> Path:
        if not (place / kind).exists():
            own = {"bert": folders.bert, "llama": folders.llama}
            own[kind](place / kind) if kind in own else folders.other(place / kind, kind)
        return place / kind

    return make


MASKED = {
    "byte": ["tokenizer=byte", "model=bert_nano"],
    "bpe": ["tokenizer=bpe", "tokenizer.vocab_size=300", "model=modernbert_nano", "model.local_attention=8"],
    "bert": ["tokenizer=existing", "model=bert_nano"],
    "roberta": ["tokenizer=existing", "model=bert_nano"],
}


@pytest.mark.parametrize("kind", MASKED)
def test_masks_are_filled_alike(
    kind: str, text: Path, folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same tokens in the same order, and the same text; `[MASK]` is the mask whatever the tokenizer calls it."""
    run, more = tmp_path / "run", MASKED[kind]
    more = [*more, f"tokenizer.path='{folder(kind)}'"] if "tokenizer=existing" in more else more
    chosen = tiny.words(text, "objective=masked", "tokens=6144", "optimizer.learning_rate=0.01", *more)
    rlgym.pretrain(*chosen, f"run.dir='{run}'")
    model, theirs = rlgym.load(run), pipeline("fill-mask", exported(run))
    seen = set()
    for asked in ("the [MASK] of", "the tree [MASK]s and the moon.", "[MASK]", "[MASK] tree and the [MASK]"):
        found = theirs(asked.replace("[MASK]", theirs.tokenizer.mask_token), top_k=3)
        found = found if isinstance(found[0], list) else [found]
        ours = model.fill(asked, 3)
        assert [[token for token, _ in row] for row in ours] == [[one["token_str"] for one in row] for row in found]
        if len(found) == 1:
            capsys.readouterr()
            assert main(["fill", str(run), f"text={asked}"]) == 0
            assert capsys.readouterr().out.removesuffix("\n").endswith(f"\n{found[0][0]['sequence']}")
        seen |= {row[0]["token_str"] for row in found}
    assert seen


CASES = {
    "bert": ["method.pooling=cls"],
    "modernbert": [],
    "qwen3": [],
    "gpt2": [],
    "folder bert": ["method.pooling=cls"],
    "folder llama": [],
    "folder gpt2": [],
    "folder opt": [],
}


@pytest.mark.parametrize("kind", CASES)
def test_labels_and_numbers_are_those_of_predict(
    kind: str, starts: Starts, table: Path, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    start = str(folder(kind.removeprefix("folder "))) if kind.startswith("folder ") else starts[kind]
    few = ["tokens=1500", "optimizer.learning_rate=0.01", *CASES[kind]]
    run = tmp_path / "labels"
    rlgym.finetune(*words(start, table, *few, f"run.dir='{run}'"))
    said = pipeline("text-classification", exported(run))(TEXTS, top_k=None)
    for row, ours in zip(said, rlgym.load(run).describe(TEXTS), strict=True):
        assert row[0]["label"] == ours["predicted"]
        assert {f"probability_{one['label']}": pytest.approx(one["score"], abs=1e-4) for one in row}.items() <= (
            ours.items()
        )
    config = json.loads((run / "export" / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification" and config["id2label"] == {"0": "cold", "1": "warm"}
    if kind not in ("bert", "modernbert", "folder opt"):
        return
    run = tmp_path / "numbers"
    rlgym.finetune(*words(start, table, *few, "method=regression", "method.target=size", f"run.dir='{run}'"))
    read = pipeline("text-classification", exported(run))
    config = read.model.config
    assert config.problem_type == "regression" and config.num_labels == 1
    scale, middle = getattr(config, "target_std", 1.0), getattr(config, "target_mean", 0.0)
    numbers = [one["score"] * scale + middle for one in read(TEXTS)]
    assert numbers == pytest.approx(rlgym.load(run).predict(TEXTS), abs=1e-3)


def test_a_head_that_no_class_has_says_so(
    starts: Starts, table: Path, folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    chosen: Any = words(str(folder("roberta")), table, "tokens=300", *QUICK[:1], f"run.dir='{run}'")
    rlgym.finetune(*chosen)
    capsys.readouterr()
    target = Path(exported(run))
    assert "AutoModelForMaskedLM.from_pretrained" in capsys.readouterr().out
    assert (target / "head.safetensors").is_file()
    assert "No class of transformers has this head" in (target / "README.md").read_text()
