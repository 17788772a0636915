"""lm-eval on an exported model gives the bits per byte that `evaluate` gives (slow: `make test-all`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlgym
from rlgym.run_folder.config_file import load_config
from rlgym.ssl.data.corpus import build_corpus
from rlgym.ssl.data.progress import silent
from rlgym.ssl.inference.evaluate import evaluate
from rlgym.ssl.inference.export import export
from tests.ssl import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASK = """
task: held_out
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
  cache_dir: {cache}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
metadata: {{version: 1}}
"""
KINDS = {
    "gpt2-byte": ["model=gpt_nano"],
    "qwen3-bpe": ["model=qwen_nano", "tokenizer=bpe", "tokenizer.vocab_size=320"],
    "llama-char": ["model=llama_nano", "tokenizer=char"],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path) -> Iterator[Path]:
    with tiny.cache(tmp_path / "cache") as folder:
        yield folder


@pytest.mark.parametrize("kind", KINDS)
def test_lm_eval_gives_the_same_bits_per_byte(kind: str, tmp_path: Path) -> None:
    lm_eval: Any = pytest.importorskip("lm_eval")
    tasks: Any = pytest.importorskip("lm_eval.tasks")
    text = tiny.write_text(tmp_path / "text", documents=40)
    words = tiny.words(text, *KINDS[kind], "tokens=16384", "data.validation_fraction=0.3")
    run = rlgym.pretrain(*words, f"run.dir='{tmp_path / 'run'}'")
    corpus = build_corpus(load_config(run.dir).data, silent)
    held_out = [corpus.document(index) for index in range(len(corpus.held_out)) if corpus.held_out[index]]
    file = tmp_path / "held_out.jsonl"
    file.write_text("".join(json.dumps({"text": document}) + "\n" for document in held_out))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "held_out.yaml").write_text(TASK.format(file=file, cache=tmp_path / "datasets"))

    choice = {"checkpoint": "best", "trust": False}
    exported = export(run.dir, {"path": "", **choice})
    ours = evaluate(run.dir, {"data": "", "settings": {}, "tokens": None, "batch_size": 8, "device": "cpu", **choice})
    found = lm_eval.simple_evaluate(
        model="hf",
        # Its windows begin with a start token of their own: the tokenizer's would be a second one, and scored.
        model_args={"pretrained": str(exported), "dtype": "float32", "add_bos_token": False},
        tasks=["held_out"],
        task_manager=tasks.TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        batch_size=4,
        device="cpu",
        bootstrap_iters=0,
    )
    theirs = found["results"]["held_out"]["bits_per_byte,none"]
    print(f"{kind}: evaluate {ours['bits_per_byte']:.6f}, lm-eval {theirs:.6f}")
    assert ours["documents"] == found["n-samples"]["held_out"]["effective"] == len(held_out)
    assert any(len(document.encode()) > 3 * 32 for document in held_out), "several windows a document"
    assert ours["bits_per_byte"] == pytest.approx(theirs, abs=1e-4)
    assert theirs < 5, "and it has learnt"
