"""`pretrain` as a person types it, and what it leaves in the run folder."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import rlgym
from rlgym.errors import RequestError
from rlgym.run_folder import checkpoint
from tests.command.conftest import Answer
from tests.faults.helpers import command as shell
from tests.faults.helpers import rows, tensors
from tests.ssl import tiny

pytestmark = pytest.mark.usefixtures("cache")

MORE = ["model=qwen_nano", "tokenizer=bpe", "tokenizer.vocab_size=300", "data.licence=CC0-1.0", "seed=3", "tokens=4096"]
EVERY = ["log.every=1024", "evaluate.every=2048", "checkpoint.every=2048", "sample.count=2", "log.histograms=true"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> tuple[Path, str, str, list[str]]:
    """The folder, stdout, stderr and words of `python -m rlgym pretrain data=text ...`."""
    here = tmp_path_factory.mktemp("trained")
    words = ["pretrain", *tiny.words(text, *MORE, *EVERY, "display=auto")]
    code, out, err = shell(*words, cwd=here, RLGYM_CACHE=str(cache))
    assert code == 0, err
    (run,) = (here / "runs").iterdir()
    return run, out, err, words


@pytest.fixture
def run(trained: tuple[Path, str, str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(trained[0].parent.parent)
    return trained[0]


def documents(text: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(text.iterdir())]


# ---- the run folder


def test_every_file_of_the_contract(run: Path) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_next_token_qwen_nano_text_s3", run.name)
    names = {"events" if p.name.startswith("events.out.tfevents.") else p.name for p in run.iterdir()}
    files = {"config.yaml", "manifest.json", "metrics.jsonl", "events", "summary.json", "log.txt"}
    own = {"data_card.md", "tokenizer", "projector", "projector_config.pbtxt"}
    assert names == files | own | {"checkpoints", "evaluations", "plots"}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step_2048", "step_4096", "best", "latest"}
    for step in (2048, 4096):
        folder = run / "checkpoints" / f"step_{step}"
        expected = {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
        assert {p.name for p in folder.iterdir()} == expected
        checkpoint.verify(folder)
    assert {p.name for p in (run / "evaluations").iterdir()} == {"step_2048.json", "step_4096.json"}


def test_the_config_is_resolved(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    settled = [config[key] for key in ("device", "compile", "threads", "precision", "batch_size")]
    assert settled == ["cpu", "off", 1, "fp32", 4]
    assert config["model"]["intermediate_size"] and config["model"]["num_key_value_heads"] == 2
    expected = pytest.approx(4 * 6e-4 * math.sqrt(768 / 32))
    assert config["optimizer"]["learning_rate"] == expected, "from the width, beside Muon"


def test_the_manifest_says_which_data(run: Path, text: Path, trained: tuple[Path, str, str, list[str]]) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["command"] == ["rlgym", *trained[3]] and manifest["root"] == "pretrain"
    assert (manifest["status"], manifest["seed"], manifest["threads"]) == ("finished", 3, 1)
    assert manifest["resume"]["arithmetic"] == "exact, with the recorded thread count"
    data, texts = manifest["data"], documents(text)
    size = sum(len(document.encode()) for document in texts)
    assert (data["documents"], data["bytes"], data["licence"]) == (len(texts), size, "CC0-1.0")
    assert re.fullmatch("[0-9a-f]{64}", data["fingerprint"]) and sum(data["text_bytes"].values()) == size
    assert data["tokenizer"]["name"] == "bpe" and data["tokenizer"]["vocab_size"] == 300
    assert data["overlap"]["share"] == 0, "no two lines are alike"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "tokenizer")
    # an end of text before each document, and one more at the end of either part
    assert sum(data["tokens"].values()) == sum(1 + len(tokenizer.encode(document)) for document in texts) + 2


def test_the_data_card_is_for_people(run: Path, text: Path) -> None:
    card = (run / "data_card.md").read_text(encoding="utf-8")
    data = json.loads((run / "manifest.json").read_text())["data"]
    assert f"Fingerprint: `{data['fingerprint']}`" in card and "Licence: CC0-1.0" in card
    held, size = data["held_out_documents"], data["held_out_bytes"]
    assert f"| validation | {held:,} | {size:,} | {data['tokens']['validation']:,} |" in card
    assert f"Held out for validation: {size / data['bytes']:.2%} of the bytes" in card
    assert 0.1 <= size / data["bytes"] < 0.2
    examples = re.findall(r"```text\n(.*?)\n```", card, re.DOTALL)
    assert len(examples) == 3 and all(any(e[:40] in document for document in documents(text)) for e in examples)


def test_auto_tokenizer_reads_the_runs_tokenizer(run: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(run / "tokenizer"), rlgym.load(run).tokenizer
    for sentence in ("the tree runs.", "  Größe\r\n\t東京 🙂 \u0007é", ""):
        ids = theirs.encode(sentence)
        assert ids == ours.encode(sentence) and theirs.decode(ids) == sentence == ours.decode(ids)
    assert theirs.encode("a<|endoftext|>b") == ours.encode_prompt("a<|endoftext|>b") != ours.encode("a<|endoftext|>b")
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id) and ours.eos_id != ours.pad_id


def test_the_terminal_shows_what_is_trained_and_what_to_do_next(trained: tuple[Path, str, str, list[str]]) -> None:
    run, out, err, _ = trained
    assert "\x1b" not in out + err, "no ANSI where there is no terminal"
    assert not re.search("Warning|Traceback", err)
    relative = Path("runs") / run.name
    for product in ("evaluate", "generate", "export"):
        assert f"python -m rlgym {product} {relative}\n" in out
    assert f"python -m rlgym resume {relative} tokens=8192 schedule_tokens=8192" in out
    data = json.loads((run / "manifest.json").read_text())["data"]
    state = checkpoint.load(run / "checkpoints" / "step_4096")[0]
    parameters = sum(tensor.numel() for tensor in state["model"].values())
    assert f"{data['documents']} documents, {data['bytes']:,} bytes, {data['tokens']['train']:,} training tokens" in err
    assert f"{parameters:,} parameters" in err and "4 x 32 = 128 tokens an update" in err
    assert "cpu, fp32, compile off, 1 threads" in err and "4,096/4,096 tokens" in err and "tokens/s" in err


def test_tensorboard_finds_curves_texts_and_numbers(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tags = {tag for row in logged for tag in row} - {"step", "time"}
    expected = """train/loss train/grad_norm train/learning_rate validation/loss validation/perplexity
    validation/bits_per_byte validation/accuracy validation/unigram_accuracy time/tokens_per_second time/mfu
    time/total_timesteps time/iterations"""
    assert set(expected.split()) == tags == set(events.Tags()["scalars"])
    for tag in tags:
        curve = [(event.step, event.value) for event in events.Scalars(tag)]
        written = [(row["step"], row[tag]) for row in logged if tag in row]
        assert [step for step, _ in curve] == [step for step, _ in written]
        np.testing.assert_allclose([v for _, v in curve], [v for _, v in written], rtol=1e-6)
    assert [row["step"] for row in logged] == [1024, 2048, 3072, 4096]
    assert [row["step"] for row in logged if "validation/loss" in row] == [2048, 4096]

    def texts(tag: str) -> dict[int, str]:
        return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}

    assert set(events.Tags()["tensors"]) >= {"config", "data/card", "run/introduction", "samples"}
    assert "tokens: 4096" in texts("config")[0]
    assert texts("data/card")[0] == (run / "data_card.md").read_text(encoding="utf-8")
    introduction = texts("run/introduction")[0].splitlines()
    assert [line.split()[0] for line in introduction] == ["data", "model", "training", "device"]
    assert set(texts("samples")) == {2048, 4096}
    assert all(len(re.findall(r"^```\n.*?^```$", t, re.DOTALL | re.MULTILINE)) == 2 for t in texts("samples").values())
    parameters = set(checkpoint.load(run / "checkpoints" / "step_4096")[0]["model"])
    kinds = {f"{kind}/{name}" for kind in ("parameters", "gradients") for name in parameters}
    assert set(events.Tags()["histograms"]) == kinds
    assert set(events.Tags()["images"]) == {f"curves/{p.stem}" for p in (run / "plots").iterdir()}
    assert events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"


def test_the_projector_shows_the_embedding_of_the_commonest_tokens(run: Path, text: Path) -> None:
    wanted = (run / "projector_config.pbtxt").read_text()
    rows_, width = (int(n) for n in re.findall(r"tensor_shape: (\d+)", wanted))
    vectors = np.frombuffer((run / "projector" / "embedding.bytes").read_bytes(), "<f4").reshape(rows_, width)
    labels = (run / "projector" / "embedding.tsv").read_text(encoding="utf-8").splitlines()
    assert len(labels) == rows_ and width == 32
    assert '"projector/embedding.bytes"' in wanted and '"projector/embedding.tsv"' in wanted
    language = rlgym.load(run, "latest")
    known = {vector.tobytes(): token for token, vector in enumerate(language.model.embedding().detach().numpy())}
    ids = [known[vector.tobytes()] for vector in vectors]
    assert len(set(ids)) == rows_ <= language.tokenizer.vocab_size
    spelled = {
        language.tokenizer.decode([token], skip_special=False): label for token, label in zip(ids, labels, strict=True)
    }
    assert spelled[" the"] == " the" and spelled["\n"] == r"\n", "what a table cannot hold is spelled out"
    counted = Counter(token for document in documents(text) for token in language.tokenizer.encode(document))
    assert counted[ids[0]] > 3 * counted[ids[-1]], "the most frequent one first"


def test_an_evaluation_is_kept_with_what_it_rests_on(run: Path) -> None:
    logged = {row["step"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    data = json.loads((run / "manifest.json").read_text())["data"]
    for step in (2048, 4096):
        found = json.loads((run / "evaluations" / f"step_{step}.json").read_text())
        assert found["validation/loss"] == logged[step]["validation/loss"]
        assert found["validation/perplexity"] == pytest.approx(math.exp(found["validation/loss"]))
        assert found["tokens"] == (data["tokens"]["validation"] - 1) // 32 * 32, "every whole block"
        assert 0.9 * data["held_out_bytes"] < found["bytes"] <= data["held_out_bytes"]
        ends = (
            found["validation/loss"] * found["tokens"] / math.log(2)
            - found["validation/bits_per_byte"] * found["bytes"]
        )
        assert 0 <= ends < 10 * data["held_out_documents"], "bits of the ends of text, which are no bytes"


def test_the_summary_says_how_it_ended(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (summary["status"], summary["steps"], summary["updates"]) == ("finished", 4096, 32)
    assert summary["final"] == {tag: value for tag, value in logged[-1].items() if tag not in ("step", "time")}
    losses = {row["step"]: row["validation/loss"] for row in logged if "validation/loss" in row}
    best = min(losses, key=lambda step: (losses[step], -step))
    assert summary["best"] == {"validation/loss": losses[best], "step": best}
    assert (run / "checkpoints" / "best").read_text().strip() == f"step_{best}"
    assert losses[4096] < losses[2048] < math.log(300), "it learns"
    uniform = logged[0]["train/loss"]
    assert math.log(300) - 1 < uniform < math.log(320) + 0.5


# ---- other ways to start one


def test_runs_lists_it(run: Path, command: Callable[..., Answer]) -> None:
    answer = command("runs", str(run.parent))
    (line,) = [line for line in answer.out.splitlines() if run.name in line]
    assert answer.code == 0 and "next_token_qwen_nano" in line and "finished" in line and "4,096" in line


def test_rerun_repeats_it_to_the_bit(run: Path, command: Callable[..., Answer], tmp_path: Path) -> None:
    again = tmp_path / "again"
    answer = command("rerun", str(run), f"run.dir={again}", "display=quiet")
    assert answer.code == 0, answer.err
    assert rows(again) == rows(run) and len(rows(run)) == 4
    first, second = (tensors(folder / "checkpoints" / "step_4096") for folder in (run, again))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    data = [json.loads((folder / "manifest.json").read_text())["data"] for folder in (run, again)]
    assert data[0] == data[1]


def test_cfg_job_prints_the_config_and_starts_nothing(command: Callable[..., Answer], tmp_path: Path) -> None:
    answer = command("pretrain", "--cfg", "job", "model=bert_nano", "objective=masked", "objective.rate=0.4")
    assert (answer.code, answer.err) == (0, "") and list(tmp_path.iterdir()) == []
    config = yaml.safe_load(answer.out)
    assert config["objective"]["rate"] == 0.4 and config["model"]["architecture"] == "bert"
    assert config["data"]["name"] == "stdlib" and config["tokenizer"]["name"] == "bpe", "what nothing was said about"


def test_a_sweep_trains_each_of_its_jobs(command: Callable[..., Answer], text: Path, tmp_path: Path) -> None:
    answer = command("pretrain", "-m", *tiny.words(text, "model=gpt_nano", "tokens=512"), "seed=1,2")
    assert answer.code == 0, answer.err
    folders = sorted((tmp_path / "runs").iterdir(), key=lambda folder: folder.name[-1])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert [folder.name[20:] for folder in folders] == [f"next_token_gpt_nano_text_s{seed}" for seed in (1, 2)]
    assert [summary["status"] for summary in summaries] == ["finished"] * 2
    assert summaries[0]["final"]["train/loss"] != summaries[1]["final"]["train/loss"]
    lines = answer.out.splitlines()[-2:]
    for line, folder, summary in zip(lines, folders, summaries, strict=True):
        assert f"runs/{folder.name}" in line and line.split()[-3:-1] == ["0", "validation/loss"]
        assert float(line.split()[-1]) == pytest.approx(summary["final"]["validation/loss"], rel=1e-3)


def test_a_sweep_with_a_wrong_job_starts_none(command: Callable[..., Answer], text: Path, tmp_path: Path) -> None:
    words = tiny.words(text, "model=gpt_nano", "tokens=512", "batch_size=4,3", "gradient_accumulation_steps=2")
    answer = command("pretrain", "-m", *words)
    assert answer.code == 2 and not (tmp_path / "runs").exists()
    (line,) = answer.err.splitlines()
    assert "gradient_accumulation_steps=2 does not divide batch_size=3; batch_size=4 would do" in line


def test_a_masked_run_shows_what_it_fills_in(command: Callable[..., Answer], text: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "masked"
    words = tiny.words(text, "objective=masked", "model=bert_nano", "tokens=1024", "ema_decay=0.9", f"run.dir={run}")
    answer = command("pretrain", *tiny.latest(*words, "display=plain", "sample.count=2"))
    assert answer.code == 0, answer.err
    assert f"python -m rlgym fill {run}" in answer.out and "rlgym generate" not in answer.out
    assert (run / "checkpoints" / "step_1024" / "ema.safetensors").is_file()
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    (sample,) = events.Tensors("samples")
    said = sample.tensor_proto.string_val[0].decode()
    assert said.startswith("hidden → guessed") and said.count("```") == 4 and re.search("⟦.+? → .*?⟧", said, re.DOTALL)
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < row["validation/unigram_accuracy"] < 0.5 and 0 <= row["validation/accuracy"] <= 1


def test_pretrain_and_load_from_python(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = rlgym.pretrain(*tiny.words(text, "model=llama_nano", "tokenizer=char", "tokens=1024"))
    assert run.exit_code == 0 and run.summary["steps"] == 1024 and run.dir.parent == Path("runs")
    weights = checkpoint.load(run.dir / "checkpoints" / "step_1024")[0]["model"]
    sources: list[Any] = [run, run.dir, str(run.dir), "last", "llama"]
    for source in sources:
        language = rlgym.load(source)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in language.model.state_dict().items())
        assert not language.model.training
    first = language.generate("the tree ", max_new_tokens=12, seed=1)
    assert first == language.generate("the tree ", max_new_tokens=12, seed=1) and len(first) == 1
    assert language.embed(["the tree", "the river sings"]).shape == (2, 32)
    with pytest.raises(RequestError, match="did you mean model.block_size"):
        rlgym.pretrain("block_size=3")
    with pytest.raises(RequestError, match="needs an encoder, such as model=bert_mini"):
        rlgym.pretrain(*tiny.words(text, "objective=masked", "model=gpt_nano"))
