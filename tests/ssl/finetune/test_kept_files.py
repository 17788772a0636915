"""The files that a run keeps for its commands: tokenizer, classes, scale and prompts are those that it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import rlgym
from rlgym.cli.main import main
from rlgym.errors import RequestError
from rlgym.run_folder.folder import Run
from rlgym.ssl.config import ExistingTokenizer
from rlgym.ssl.data.existing_tokenizer import existing
from rlgym.ssl.data.tokenizer_files import JINJA_BYTES
from tests.ssl import folders, tiny
from tests.ssl.finetune.starts import Starts, words

pytestmark = pytest.mark.usefixtures("cache")
PROMPTS = ["data.bad=skip", "method.prompt=text", "method.prompts=4"]
RUNS = {
    "pretrain": [],
    "classification": ["bert"],
    "regression": ["bert", "method=regression", "method.target=size"],
    "grpo": ["gpt2", "method=grpo", "reward=length", "method.max_new_tokens=8", *PROMPTS],
}


@pytest.fixture(scope="module")
def made(starts: Starts, table: Path, tmp_path_factory: pytest.TempPathFactory, text: Path) -> Callable[[str], Path]:
    """A copy of a finished run of each kind."""
    place = tmp_path_factory.mktemp("made")

    def make(kind: str) -> Path:
        if not (place / kind).exists():
            if kind == "pretrain":
                rlgym.pretrain(*tiny.words(text, "tokens=256", "sample.count=0", f"run.dir='{place / kind}'"))
            else:
                start, *more = RUNS[kind]
                chosen = words(starts[start], table, "tokens=300", *more, f"run.dir='{place / kind}'")
                rlgym.finetune(*(w for w in chosen if kind != "grpo" or not w.startswith("method.baselines")))
        copy = place / f"{kind}-{len(list(place.iterdir()))}"
        shutil.copytree(place / kind, copy)
        return copy

    return make


def swapped(path: Path) -> None:
    """Still a file of its kind, and a plausible one."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "tokenizer.json":
        found["normalizer"] = {"type": "Lowercase"}
    elif path.name == "tokenizer_config.json":
        found["chat_template"] = "{{ messages }}"
    elif path.name == "labels.json":
        found["labels"].reverse()
    elif path.name == "target.json":
        found["std"] *= 2
    elif path.name == "prompts.json":
        found["train"], found["held_out"] = found["held_out"], found["train"]
    else:
        found["eos_token_id"] = 5
    path.write_text(json.dumps(found), encoding="utf-8")


CASES = {
    ("pretrain", "tokenizer/tokenizer.json"): ("resume", "evaluate", "generate", "export"),
    ("pretrain", "tokenizer/generation_config.json"): ("resume", "generate"),
    ("classification", "tokenizer/tokenizer.json"): ("resume", "evaluate", "predict", "export"),
    ("classification", "labels.json"): ("resume", "evaluate", "predict", "export"),
    ("regression", "target.json"): ("resume", "evaluate", "predict", "export"),
    ("grpo", "prompts.json"): ("resume", "evaluate"),
    ("grpo", "tokenizer/tokenizer_config.json"): ("resume", "evaluate", "generate", "export"),
}
MORE = {"resume": ["tokens=900"], "predict": ["text=the sun"]}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_another_file_is_refused_in_one_line(
    kind: str, name: str, made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(kind)
    assert len(Run(run).manifest["files"][name]) == 64
    whole = (run / name).read_bytes()
    swapped(run / name)
    refused(run, f"{run / name}: not the one that the run began with, its SHA-256 is another", kind, name, capsys)
    if name != "tokenizer/tokenizer.json":
        (run / name).unlink()
        for command in CASES[kind, name]:
            assert main([command, str(run), *MORE.get(command, [])]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert name.split("/")[-1] in line
    (run / name).write_bytes(whole)
    command = CASES[kind, name][1]
    assert main([command, str(run), *MORE.get(command, [])]) == 0, capsys.readouterr().err


def refused(run: Path, said: str, kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    for command in CASES[kind, name]:
        capsys.readouterr()
        assert main([command, str(run), *MORE.get(command, [])]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    assert after == before


def test_a_run_without_these_sums_is_read_as_before(
    made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an older version: another number of classes than the head has is refused all the same."""
    run = made("classification")
    Run(run).update_manifest(files={})
    for labels, code in ((["a", "b"], 0), (["a", "b", "c"], 2)):
        (run / "labels.json").write_text(json.dumps({"labels": labels}))
        capsys.readouterr()
        assert main(["predict", str(run), "text=the sun"]) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_chat_template_is_read_within_bounds(tmp_path: Path) -> None:
    folders.tokenizer("<s> $A", folders.LLAMA).save_pretrained(tmp_path)
    path = tmp_path / "chat_template.jinja"
    config = ExistingTokenizer(path=str(tmp_path))
    path.write_text("x" * JINJA_BYTES)
    assert existing(config, True).chat_template == "x" * JINJA_BYTES
    path.write_text("x" * (JINJA_BYTES + 1))
    with pytest.raises(
        RequestError, match="chat_template.jinja: is not a valid chat template .more than 1,048,576 bytes"
    ):
        existing(config, True)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="chat_template.jinja: is not a valid chat template .'utf-8' codec"):
        existing(config, True)
