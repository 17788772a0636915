"""What goes wrong while text is prepared, learnt from or learnt on with, through the real commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rlgym.cli.main import main
from rlgym.run_folder import checkpoint
from rlgym.ssl.objectives.next_token import NextToken
from tests.command.conftest import Answer
from tests.faults.helpers import command, files, refused, rows, start, wait_for
from tests.ssl import tiny
from tests.ssl.corpora import staging, write

CORPUS = ["tokenizer=byte", "batch_size=4", "model=gpt_nano", "tokens=512", *tiny.SHAPE, *tiny.QUICK]


# ---- bad input: text


def nothing(folder: Path) -> None:
    write(folder / "a.txt", "")
    write(folder / "b.txt", "")


def twice_too_short(folder: Path) -> None:
    write(folder / "a.txt", "a tree")
    write(folder / "b.txt", "a moon")


def less_than_a_block(folder: Path) -> None:
    write(folder / "a.txt", "eighteen letters..")


def small_validation(folder: Path) -> None:
    write(folder / "a.txt", tiny.sentences(6, 1))


def binary(folder: Path) -> None:
    write(folder / "a.txt", tiny.sentences(9, 1))
    write(folder / "b.txt", b"\x7fELF\x02\x01\x01\x00\x00")


def latin_1(folder: Path) -> None:
    write(folder / "a.txt", tiny.sentences(9, 1))
    write(folder / "b.txt", "na\u00efve".encode("latin-1"))


def broken_lines(folder: Path) -> None:
    lines = [json.dumps({"text": line}) for line in tiny.sentences(60, 1).splitlines()]
    lines[6], lines[20], lines[40] = '{"text": "cut', '["a list"]', '{"text": 5}'
    write(folder / "a.jsonl", "\n".join(lines))


def table(folder: Path) -> None:
    write(folder / "a.csv", "id,body,label\n" + "".join(f"{i},{line},x\n" for i, line in enumerate("abc")))


def no_file(folder: Path) -> None:
    folder.mkdir()


BAD: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "empty": (nothing, ["data=text"], ["the corpus is empty", "2 documents shorter than 1 character"]),
    "dropped": (
        twice_too_short,
        ["data=text", "data.min_length=7"],
        ["empty", "2 documents shorter than 7 characters"],
    ),
    "less than a block": (
        less_than_a_block,
        ["data=text", "data.validation_fraction=0.5"],
        ["model.block_size=32: the train part of the corpus has 11 tokens", "one block takes 33", "lower model.block"],
    ),
    "validation less than a block": (
        small_validation,
        ["data=text"],
        ["model.block_size=32: the validation part of the corpus has", "data.validation_fraction=F gives it more"],
    ),
    "binary": (
        binary,
        ["data=text"],
        ["1 file cannot be used", "b.txt: byte 7 is NUL, as in binary files", "bad=skip"],
    ),
    "not UTF-8": (latin_1, ["data=text"], ["b.txt: byte 2 is not UTF-8"]),
    "broken lines": (
        broken_lines,
        ["data=jsonl"],
        ["3 lines cannot be used, the first is ", "a.jsonl:7: ", "data.bad=skip leaves such out and counts them"],
    ),
    "unknown field": (broken_lines, ["data=jsonl", "data.column=txt"], ["data.column=txt", "text", "did you mean"]),
    "unknown column": (table, ["data=csv"], ["data.column=text: no such column", "id, body, label"]),
    "no such file": (
        no_file,
        ["data=text", "data.path=nowhere.txt"],
        ["data.path=nowhere.txt: no such file or folder"],
    ),
    "an empty folder": (no_file, ["data=parquet"], ["the folder holds no file that ends in .parquet"]),
    "a hub name without network": (
        no_file,
        ["data=hub", "data.path=nobody/nothing"],
        ["data.path=nobody/nothing"],
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_text_is_one_line_and_leaves_nothing(
    fault: str, here: Path, own_cache: Path, rlgym: Callable[..., Answer]
) -> None:
    make, words, said = BAD[fault]
    make(here / "in")
    path = [] if any(word.startswith("data.path=") for word in words) else ["data.path=in"]
    refused(rlgym("pretrain", *tiny.latest(*CORPUS, *words[:1], *path, *words[1:])), *said)
    assert [item.name for item in here.iterdir()] == ["in"], "no run folder"
    assert staging(own_cache) == [], "and no half-prepared data"


def test_the_same_from_a_shell(here: Path, own_cache: Path) -> None:
    broken_lines(here / "in")
    words = tiny.latest(*CORPUS, "data=jsonl", "data.path=in", "display=auto")
    code, out, err = command("pretrain", *words, cwd=here, RLGYM_CACHE=str(own_cache))
    refused(Answer(code, out, err), "3 lines cannot be used", "a.jsonl:7: ")
    assert [item.name for item in here.iterdir()] == ["in"]


def test_bad_lines_are_left_out_and_counted_when_asked(here: Path, rlgym: Callable[..., Answer]) -> None:
    broken_lines(here / "in")
    more = ["data=jsonl", "data.path=in", "data.bad=skip", "run.dir=run"]
    assert rlgym("pretrain", *CORPUS, *more).code == 0
    data = json.loads(Path("run/manifest.json").read_text())["data"]
    assert (data["documents"], data["bad"]) == (57, 3) and data["first_bad"].startswith(f"{here}/in/a.jsonl:7: ")
    card = Path("run/data_card.md").read_text(encoding="utf-8")
    assert "Left out as unreadable: 3 lines (the first: " in card


# ---- bad input: choices that do not go together

CHOICES = {
    "objective=masked model=gpt_nano": "objective=masked needs an encoder, such as model=bert_mini",
    "objective=next_token model=bert_nano": "objective=next_token needs a decoder, such as model=gpt_mini",
    "model.hidden_size=33": "model.hidden_size=33 is not a multiple of model.num_attention_heads=2",
    "gradient_accumulation_steps=3": "gradient_accumulation_steps=3 does not divide batch_size=4; batch_size=6 would",
    "tokenizer=existing": "tokenizer.path is empty",
    "tokenizer=existing tokenizer.path=in": "tokenizer.path=in: no tokenizer.json in it",
    "tokenizer=existing tokenizer.path=causal objective=masked model=bert_nano": "has no mask token",
    "tokenizer=bpe tokenizer.vocab_size=20": "tokenizer.vocab_size=20: must be >= 270",
    "objective.rate=0.5": "unknown key objective.rate",
    "optimizer=adam": "optimizer=adam not found - did you mean optimizer=adamw?",
    "device=cuda:99": "device=cuda:99: ",
    "tokens=0": "tokens=0: must be > 0",
    "steps=100": "unknown key steps",
}


@pytest.mark.parametrize("words", CHOICES)
def test_choices_that_do_not_fit_are_refused(words: str, here: Path, rlgym: Callable[..., Answer]) -> None:
    from rlgym.ssl.config import ByteTokenizer
    from rlgym.ssl.data.build_tokenizer import build_tokenizer

    tiny.write_text(here / "in", documents=8)
    none: Any = None
    build_tokenizer(ByteTokenizer(), none, True, none).save(here / "causal")
    corpus = [*CORPUS, "data=text", "data.path=in", "data.validation_fraction=0.2"]
    answer = rlgym("pretrain", *tiny.latest(*corpus, *words.split()))
    refused(answer, CHOICES[words])
    assert {item.name for item in here.iterdir()} == {"in", "causal"}


# ---- a run whose text or tokenizer is no longer what it began with


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    text = tiny.write_text(folder / "text")
    with tiny.cache(folder / "cache"):
        words = tiny.words(text, "model=gpt_nano", "tokens=512", "tokenizer=bpe", "tokenizer.vocab_size=290")
        assert main(["pretrain", *words, f"run.dir={folder / 'run'}"]) == 0
    return folder


@pytest.fixture
def trained(template: Path, here: Path) -> Path:
    """A finished run of 512 tokens; its text, which the template shares, is put back afterwards by who changes it."""
    return Path(shutil.copytree(template / "run", here / "run"))


@pytest.fixture
def changed(template: Path) -> Iterator[Path]:
    """One of the files of the run's text, changed."""
    path = template / "text" / "005.txt"
    before = path.read_bytes()
    write(path, before + b"and one line more.\n")
    yield path
    write(path, before)


def test_other_text_is_refused_unless_forced(trained: Path, changed: Path, rlgym: Callable[..., Answer]) -> None:
    recorded = json.loads((trained / "manifest.json").read_text())["data"]
    before = files(trained)
    said = ["the corpus is no longer the one it began with", f"{recorded['bytes']:,} bytes then", "force=true"]
    refused(rlgym("resume", str(trained), "tokens=1024", "display=quiet"), *said)
    assert files(trained) == before

    assert rlgym("resume", str(trained), "tokens=1024", "force=true", "display=quiet").code == 0
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["data"]["fingerprint"] != recorded["fingerprint"] and manifest["data_before"] == [recorded]
    assert manifest["data"]["tokenizer"] == recorded["tokenizer"], "the run keeps its tokenizer"
    assert json.loads((trained / "summary.json").read_text())["steps"] == 1024
    assert rlgym("resume", str(trained), "tokens=1536", "display=quiet").code == 0, "from now on this is its corpus"


def test_text_that_is_gone_is_named(trained: Path, template: Path, rlgym: Callable[..., Answer]) -> None:
    before = files(trained)
    (template / "text").rename(template / "away")
    try:
        refused(rlgym("resume", str(trained), "tokens=1024"), "text: no such file or folder")
    finally:
        (template / "away").rename(template / "text")
    assert files(trained) == before
    assert rlgym("generate", str(trained), "tokens=3").code == 0, "what is learnt needs no corpus"


def test_the_same_text_elsewhere_or_touched_is_the_same(
    trained: Path, template: Path, rlgym: Callable[..., Answer]
) -> None:
    for path in (template / "text").iterdir():
        os.utime(path)
    assert rlgym("resume", str(trained), "tokens=1024", "display=quiet").code == 0


@pytest.mark.parametrize("size", [280, 400], ids=["as many rows", "more rows"])
def test_a_tokenizer_of_another_vocabulary_is_refused(
    size: int, trained: Path, template: Path, here: Path, rlgym: Callable[..., Answer]
) -> None:
    """280 tokens are padded to as many rows of the embedding as the run's 290: no shape tells them apart."""
    text = template / "text"
    words = tiny.words(text, "model=gpt_nano", "tokens=128", "tokenizer=bpe", f"tokenizer.vocab_size={size}")
    assert rlgym("pretrain", *words, "run.dir=other").code == 0
    shutil.rmtree(trained / "tokenizer")
    shutil.copytree("other/tokenizer", trained / "tokenizer")
    before = files(trained)
    for command_ in (["resume", "tokens=1024"], ["resume", "tokens=1024", "force=true"], ["generate"], ["export"]):
        line = refused(rlgym(command_[0], str(trained), *command_[1:]))
        assert "tokenizer" in line, line
    assert files(trained) == before


def test_a_missing_tokenizer_is_one_line(trained: Path, rlgym: Callable[..., Answer]) -> None:
    shutil.rmtree(trained / "tokenizer")
    for name in ("resume", "generate", "evaluate", "export"):
        more = ["tokens=1024"] if name == "resume" else []
        assert "tokenizer" in refused(rlgym(name, str(trained), *more))


# ---- numbers that go wrong, and signals


def test_a_non_finite_loss_keeps_the_last_good_checkpoint(
    here: Path, rlgym: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny.write_text(here / "text")
    real, calls = NextToken.loss, 0

    def loss(self: NextToken, model: Any, part: Any) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        found, count = real(self, model, part)
        return (found * float("inf") if calls == 14 else found), count

    monkeypatch.setattr(NextToken, "loss", loss)
    words = tiny.words(text, "model=gpt_nano", "tokens=4096", "checkpoint.every=512", "evaluate.every=512")
    answer = rlgym("pretrain", *words, "log.every=512", "ema_decay=0.9", "run.dir=run")
    assert answer.code == 3 and len(answer.err.splitlines()) == 1
    assert "non-finite loss or gradient at step 1792 (update 14)" in answer.err
    run = Path("run")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "failed" and "Traceback" in (run / "log.txt").read_text()
    assert max(checkpoint.steps(run)) == 1536 and [row["step"] for row in rows(run)] == [512, 1024, 1536]
    state, _ = checkpoint.load(checkpoint.newest(run, print))
    assert all(tensor.isfinite().all() for name in ("model", "ema") for tensor in state[name].values())
    monkeypatch.undo()
    monkeypatch.chdir(here)
    with tiny.cache(here / "cache"):
        assert rlgym("generate", "run", "tokens=3").code == 0
        assert rlgym("resume", "run", "display=quiet").code == 0, "the fault has gone: it goes on"
    assert json.loads((run / "summary.json").read_text())["steps"] == 4096


def test_sigterm_saves_and_a_resume_goes_on(here: Path, own_cache: Path, rlgym: Callable[..., Answer]) -> None:
    text = tiny.write_text(here / "text")
    words = tiny.words(text, "model=gpt_nano", "tokens=100_000_000", "checkpoint.every=1_024", "evaluate.every=0")
    words = tiny.latest(*words, "compile=off", "display=plain")
    run = here / "run"
    process = start("pretrain", *words, "run.dir=run", cwd=here, RLGYM_CACHE=str(own_cache))
    wait_for(run / "checkpoints" / "latest", process)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "stopped" and "python -m rlgym resume run" in out
    newest = checkpoint.newest(run, print)
    assert newest.name == f"step_{summary['steps']}"
    checkpoint.verify(newest)
    more = summary["steps"] + 1024
    assert rlgym("resume", "run", f"tokens={more}", "display=quiet").code == 0
    again = json.loads((run / "summary.json").read_text())
    assert again["status"] == "finished" and again["steps"] >= more
