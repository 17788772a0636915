"""Regression, LoRA, predict, evaluate, export and Hugging Face folders, as a person types them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlgym
from rlgym.cli.main import main
from rlgym.config.compose import compose
from rlgym.config.schema import FinetuneConfig
from rlgym.errors import RequestError
from rlgym.ssl.config import CsvData, JsonlData
from rlgym.ssl.finetune.examples import read_table
from rlgym.ssl.finetune.predict import table_config
from rlgym.ssl.finetune.regression import Regression
from rlgym.ssl.finetune.start import open_start
from tests.ssl.finetune.starts import Starts, words, write_table

pytestmark = pytest.mark.usefixtures("cache")
TEXTS = ["the sun", "ice and snow 12", "the river runs and the frost waits"]
FEW = ["tokens=1500", "evaluate.every=0", "checkpoint.every=0"]


def finetuned(starts: Starts, table: Path, run: Path, kind: str, *more: str) -> Path:
    rlgym.finetune(*words(starts[kind], table, *FEW, *more, f"run.dir='{run}'"))
    return run


def test_regression_learns_a_number(starts: Starts, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    more = ["method=regression", "method.target=size", "method.epochs=40", "optimizer.learning_rate=5e-3"]
    more += ["evaluate.every=0", "method.baselines=true"]
    run = rlgym.finetune(*words(starts["modernbert"], table, *more, f"run.dir='{tmp_path / 'r'}'"))
    final = run.summary["final"]
    assert final["validation/r2"] > 0.5 and final["validation/pearson"] > 0.7
    assert final["validation/rmse"] >= final["validation/mae"] > 0
    record = json.loads((run.dir / "evaluations" / f"step_{run.summary['steps']}.json").read_text())
    assert set(record["baselines"]) == {"the mean", "TF-IDF + ridge regression"}
    targets, found = (np.array([one[key] for one in record["predictions"]]) for key in ("target", "predicted"))
    assert np.abs(targets - found).mean() == pytest.approx(final["validation/mae"])
    longer, shorter = rlgym.load(run).predict(["the sun and the snow 100", "ice 1"])
    assert longer > shorter


def test_a_number_that_is_none_is_named(starts: Starts, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("text,score\n" + "".join(f"text {i},{i / 7}\n" for i in range(20)) + "a,NaN\nb,seven\n")
    with pytest.raises(RequestError, match="2 rows cannot be used, the first is .*t.csv:22: score is NaN"):
        Regression(compose(words(starts["bert"], table, "method=regression"), "finetune"))
    table.write_text("text,score\n" + "".join(f"text {i},1\n" for i in range(20)))
    with pytest.raises(RequestError, match="every training example has 1"):
        Regression(compose(words(starts["bert"], table, "method=regression"), "finetune"))


@pytest.mark.parametrize("mode", ["full", "last", "head", "lora"])
def test_what_is_trained(mode: str, starts: Starts, table: Path, tmp_path: Path) -> None:
    """Only what the mode says moves, and nothing that is frozen decays."""
    from rlgym.ssl.finetune.classification import Classification

    one = Classification(compose(words(starts["gpt2"], table, f"adapt.mode={mode}", "threads=1"), "finetune"))
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    for _ in range(3):
        one.update()
    moved = {name for name, p in one.model.named_parameters() if not torch.equal(p, before[name])}
    assert "head.out.weight" in moved
    rest = moved - {"head.out.weight"}
    if mode == "head":
        assert not rest
    elif mode == "lora":
        assert rest and all("lora_" in name for name in rest)
    elif mode == "last":
        assert rest and all(".h.1." in name or "ln_f" in name for name in rest)
    else:
        assert any("wte" in name for name in rest) and any(".h.0." in name for name in rest)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3", "gpt2"])
def test_lora_merged_or_beside_is_the_same_model(
    kind: str, starts: Starts, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pooling = ["method.pooling=cls"] if kind == "bert" else []
    run = finetuned(starts, table, tmp_path / "run", kind, "adapt.mode=lora", "optimizer.learning_rate=1e-2", *pooling)
    model = rlgym.load(run)
    expected = model.outputs(TEXTS)
    capsys.readouterr()
    assert main(["export", str(run)]) == 0 and main(["export", str(run), "adapter=true", f"path={tmp_path / 'a'}"]) == 0
    merged = AutoModelForSequenceClassification.from_pretrained(run / "export").eval()
    assert merged.config.id2label == {0: "cold", 1: "warm"}
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a" / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "export")
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        plain = base(**inputs).logits
        beside = peft.PeftModel.from_pretrained(base, tmp_path / "a").eval()(**inputs).logits
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(beside, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-3), "the additions do something"
    again = open_start(str(run), 0)  # and fine-tuning goes on from the merged model
    torch.testing.assert_close(again.model.state_dict(), model.model.state_dict())


def test_a_head_without_a_class_is_applied_by_the_readme(starts: Starts, table: Path, tmp_path: Path) -> None:
    run = finetuned(starts, table, tmp_path / "run", "bert", "method.pooling=mean")
    assert main(["export", str(run)]) == 0
    readme = (run / "export" / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    space: dict[str, object] = {}
    import os

    here = os.getcwd()
    os.chdir(run / "export")
    try:
        exec(code, space)
    finally:
        os.chdir(here)
    expected = rlgym.load(run).outputs(["a text"])
    torch.testing.assert_close(space["logits"], expected, rtol=1e-4, atol=1e-5)


def test_predict_evaluate_and_tree(
    starts: Starts, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finetuned(starts, table, tmp_path / "runs" / "one", "qwen3")
    out = tmp_path / "out.csv"
    assert main(["predict", str(run), f"data={table}", f"out={out}"]) == 0
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    model = rlgym.load(run)
    assert len(rows) == 80 and [row["predicted"] for row in rows] == model.predict([row["text"] for row in rows])
    assert {"label", "size", "probability", "probability_cold"} <= rows[0].keys()
    assert main(["predict", str(run), f"data={table}", f"out={tmp_path / 'out.jsonl'}"]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["predicted"] == rows[0]["predicted"]
    capsys.readouterr()
    assert main(["predict", str(run), "text=the sun"]) == 0
    assert capsys.readouterr().out.startswith(f"predicted {model.predict(['the sun'])[0]}")
    assert main(["predict", str(run), f"data={out}", f"out={out}"]) == 2
    assert "column 'predicted' already" in capsys.readouterr().err

    assert main(["evaluate", str(run)]) == 0
    final = json.loads((run / "summary.json").read_text())["final"]
    assert f"accuracy {final['validation/accuracy']:.4g}" in capsys.readouterr().out
    other = write_table(tmp_path / "other.csv", 30, seed=9)
    assert main(["evaluate", str(run), f"data={other}"]) == 0
    assert "over 30 examples" in capsys.readouterr().out
    other.write_text("text,label\nthe sun,hot\n")
    assert main(["evaluate", str(run), f"data={other}"]) == 2
    assert "label 'hot' is not one of the model's classes: cold, warm" in capsys.readouterr().err

    rlgym.finetune(*words(str(run), table, *FEW, f"run.dir='{tmp_path / 'runs' / 'two'}'"))
    assert main(["runs", str(tmp_path / "runs"), "--tree"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:]][0] == "qwen3"
    assert any(line.startswith("└─ one") for line in lines) and any("   └─ two" in line for line in lines)


@pytest.fixture(scope="module")
def excel(starts: Starts, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table as spreadsheets write it: `;` between values, a byte-order mark, line ends of Windows."""
    folder = tmp_path_factory.mktemp("excel")
    rows = list(csv.reader(table.open(encoding="utf-8", newline="")))
    with (folder / "own.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    return finetuned(starts, folder / "own.csv", folder / "run", "bert", 'data.delimiter=";"')


def test_predict_and_evaluate_read_files_as_training_did(
    excel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_bytes(b"\xef\xbb\xbftext;label\r\nthe sun, 1;warm\r\ncaf\xe9;warm\r\n;cold\r\nice;cold\r\n")
    assert main(["predict", str(excel), f"data={path}"]) == 2
    assert f"data: 1 row cannot be used, the first is {path}:3: byte 35 is not UTF-8" in capsys.readouterr().err
    for word in ("predict", "evaluate"):
        assert main([word, str(excel), f"data={path}", "data.bad=skip", "data.min_length=3"]) == 2
        assert "data.min_length=3 has no effect because fine-tuning takes each row" in capsys.readouterr().err
    assert main(["predict", str(excel), f"data={path}", "data.bad=skip", f"out={out}"]) == 0
    assert f"2 rows written to {out}; left out: 2 rows, the first {path}:3: byte 35" in capsys.readouterr().out
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["the sun, 1", "ice"] and list(rows[0])[:3] == [
        "text",
        "label",
        "predicted",
    ]
    assert [row["predicted"] for row in rows] == rlgym.load(excel).predict(["the sun, 1", "ice"])
    assert main(["evaluate", str(excel), f"data={path}", "data.bad=skip"]) == 0
    assert f"over 2 examples; left out: 2 rows, the first {path}:3: byte 35" in capsys.readouterr().out
    path.write_text("text|label\nthe sun|warm\n")
    assert main(["predict", str(excel), f"data={path}"]) == 2
    assert "in.csv:1: the only column is 'text|label'; data.delimiter sets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "name", "content", "words", "expected"),
    [
        ({"delimiter": ";"}, "new.csv", "", {}, {"delimiter": ";"}),
        ({"delimiter": ";"}, "new.csv.gz", "", {}, {"delimiter": ";"}),
        ({"delimiter": ";"}, "new.txt", "", {}, {"delimiter": ";"}),
        ({"delimiter": ";"}, "new.csv", "", {"delimiter": ",", "bad": "skip"}, {"delimiter": ",", "bad": "skip"}),
        ({"delimiter": ";"}, "new.tsv", "", {}, {}),
        ({"quoting": False, "bad": "skip"}, "new.csv", "", {}, {"quoting": False}),
        ({"columns": ["label", "text"]}, "new.csv", "a,b\n", {}, {"columns": ["label", "text"]}),
        ({"columns": ["label", "text"]}, "new.csv", "id,text\n", {}, {}),
        ({"columns": ["n", "text"]}, "new", "a,b\n", {}, {"columns": ["n", "text"]}),
        ({"columns": ["n", "text"], "delimiter": "|"}, "new", "id|text\n", {}, {"delimiter": "|"}),
    ],
)  # fmt: skip
def test_a_table_is_opened_as_trainings_was(
    own: dict[str, Any], name: str, content: str, words: dict[str, str], expected: dict[str, Any], tmp_path: Path
) -> None:
    """By the file's name, by data=csv data.path=F, and of a folder; what the file itself says, or the words, wins."""
    config = FinetuneConfig(data=CsvData(path=["own.csv"], **own))
    path = tmp_path / name if "." in name else tmp_path / name / "a.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    for given, settings in ((tmp_path / name, words), ("csv", {**words, "path": str(tmp_path / name)})):
        assert table_config(config, str(given), settings) == CsvData(path=[str(tmp_path / name)], **expected)
    (tmp_path / "other.jsonl").write_text("")
    assert table_config(config, str(tmp_path / "other.jsonl"), {}) == JsonlData(path=[str(tmp_path / "other.jsonl")])


def test_what_predict_writes_reads_back_equal(excel: Path, tmp_path: Path) -> None:
    """Every column of every row, whatever the first row has, and every kind of line end, by three readers."""
    pandas = pytest.importorskip("pandas")
    from pyarrow import csv as arrow_csv

    odd = ["a\rb", "c\r\nd", "e\nf", 'g "h", i', "j\tk", " l;m ", "n\u2028o"]
    rows: list[dict[str, Any]] = [{"text": f"the sun {text}"} for text in odd]
    rows[2]["note"], rows[4]["tags"] = "late", ["x", "y\r"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "bad \ud83d"}, {"text": " "}]))
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        out = tmp_path / f"out{suffix}"
        assert main(["predict", str(excel), f"data={source}", "data.bad=skip", f"out={out}"]) == 0
        with out.open(encoding="utf-8", newline="") as file:
            plain = list(csv.DictReader(file, delimiter=delimiter))
        frame = pandas.read_csv(out, sep=delimiter, dtype=str, keep_default_na=False)
        parsing = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        arrow = arrow_csv.read_csv(out, parse_options=parsing).to_pylist()
        assert list(plain[0])[:3] == ["text", "note", "tags"] and out.read_bytes().count(b"\r\n") == 1
        for found in (plain, frame.to_dict("records"), arrow):
            assert [row["text"] for row in found] == [row["text"] for row in rows]
            assert found[2]["note"] == "late" and json.loads(found[4]["tags"]) == ["x", "y\r"]
        assert [row.values for row in read_table(CsvData(path=[str(out)])).rows] == plain
    assert main(["predict", str(excel), f"data={source}", "data.bad=skip", f"out={tmp_path / 'out.jsonl'}"]) == 0
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [{k: v for k, v in json.loads(line).items() if k in ("text", "note", "tags")} for line in lines] == rows


def test_evaluating_what_was_trained_on_is_said(
    starts: Starts, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of the parent's own corpus as examples: long enough for runs of 13 words."""
    table = tmp_path / "seen.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number, path in enumerate(sorted(text.glob("*.txt"))):
            writer.writerow([path.read_text(), "ab"[number % 2]])
    run = finetuned(starts, table, tmp_path / "run", "bert")
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    assert "warning: " in out and "of the 13-grams evaluated here" in out and "bert was trained on" in out


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3", "gpt2"])
def test_a_folder_is_a_start(kind: str, starts: Starts, tmp_path: Path) -> None:
    """An export comes back as the layout it was, to the bit."""
    own = open_start(starts[kind], 0)
    assert main(["export", starts[kind], f"path={tmp_path / 'folder'}"]) == 0
    back = open_start(str(tmp_path / "folder"), 0)
    assert type(back.model) is type(own.model) and back.model.causal == own.model.causal
    tokens = torch.tensor([[5, 6, 7, 8]])
    own.model.eval()
    back.model.eval()
    first, second = (s.model.logits(s.model(tokens))[..., : own.model.tokens] for s in (own, back))
    assert torch.equal(first, second)


def test_another_architecture_keeps_its_modules(starts: Starts, table: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, RobertaConfig

    assert main(["export", starts["bert"], f"path={tmp_path / 'folder'}"]) == 0
    shape = RobertaConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=66, pad_token_id=0,
    )  # fmt: skip
    auto: Any = AutoModelForMaskedLM
    theirs = auto.from_config(shape).eval()
    theirs.save_pretrained(tmp_path / "folder")
    back = open_start(str(tmp_path / "folder"), 0)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(back.model.eval().logits(back.model(tokens)), theirs(tokens).logits)
    run = tmp_path / "run"
    rlgym.finetune(*words(str(tmp_path / "folder"), table, *FEW, f"run.dir='{run}'"))
    assert len(rlgym.load(run).predict(TEXTS)) == 3


def test_folders_that_cannot_be(starts: Starts, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert main(["export", starts["gpt2"], f"path={folder}"]) == 0
    config = json.loads((folder / "config.json").read_text())
    cases = [
        (config | {"auto_map": {"AutoModel": "x--y.Z"}}, "names code of its own"),
        (config | {"architectures": ["GPT2ForSequenceClassification"]}, "has a head for labels"),
        (config | {"architectures": ["GPT2Model"]}, "is not a language model"),
        (config | {"n_layer": 3}, "its weights lack"),
    ]
    for values, said in cases:
        (folder / "config.json").write_text(json.dumps(values))
        with pytest.raises(RequestError, match=said):
            open_start(str(folder), 0)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match="pytorch_model.bin is pickled"):
        open_start(str(folder), 0)
