"""The learner: gradients in parts, evaluations that leave no trace, schedules, averages, and which model is kept."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rlgym
from rlgym.config.compose import compose
from rlgym.config.device import can_compile
from rlgym.errors import RequestError
from rlgym.run_folder import checkpoint
from rlgym.run_folder.folder import Run
from rlgym.ssl.pretraining import Pretraining
from tests.faults.helpers import rows
from tests.ssl import tiny

pytestmark = pytest.mark.usefixtures("cache")

MASKED = ["objective=masked", "model=bert_nano"]
NEXT = ["objective=next_token", "model=qwen_nano"]
BOTH = pytest.mark.parametrize("kind", [NEXT, MASKED], ids=["next_token", "masked"])


def parameters(learner: Pretraining) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.model.named_parameters()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- one update


@BOTH
def test_a_batch_in_parts_has_the_gradient_of_the_whole(kind: list[str], learner: Callable[..., Pretraining]) -> None:
    """1 x 8 == 8 x 1, by way of the data, the masks and the optimiser's own norm."""
    found = []
    for cut in (1, 2, 8):
        one = learner(*kind, "batch_size=8", f"gradient_accumulation_steps={cut}", "optimizer.max_grad_norm=1e9")
        batch = one.batches.get(0)
        assert batch["tokens"].shape == (cut, 8 // cut, 32)
        labels = [int((part >= 0).sum()) for part in batch["labels"]]
        assert sum(labels) == batch["total"][0] and (kind is NEXT or cut == 1 or len(set(labels)) > 1)
        assert kind is MASKED or cut > 1 or batch["documents"].max() > 0, "rows hold several documents"
        metrics = one.update()
        gradients = {name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None}
        found.append((float(metrics["train/loss"]), float(metrics["train/grad_norm"]), gradients, parameters(one)))
    (loss, norm, gradients, weights), *others = found
    assert norm > 0.1 and len(gradients) == len(weights)
    for other_loss, other_norm, other, after in others:
        assert other_loss == pytest.approx(loss, rel=1e-5) and other_norm == pytest.approx(norm, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
            torch.testing.assert_close(after[name], weights[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_first_loss_is_that_of_knowing_nothing(learner: Callable[..., Pretraining]) -> None:
    for kind in (NEXT, MASKED):
        loss = float(learner(*kind, "batch_size=16").update()["train/loss"])
        assert loss == pytest.approx(math.log(320), abs=0.5), "258 tokens, padded to 320"


@BOTH
def test_the_same_seed_is_the_same_run_and_another_is_another(
    kind: list[str], learner: Callable[..., Pretraining]
) -> None:
    found: list[tuple[list[float], dict[str, Tensor]]] = []
    for seed in (1, 1, 2):
        one = learner(*kind, f"seed={seed}", "model.dropout=0.2")
        torch.manual_seed(len(found))  # what the process drew before does not matter
        losses = [float(one.update()["train/loss"]) for _ in range(3)]
        found.append((losses, parameters(one)))
    assert found[0][0] == found[1][0] and same(found[0][1], found[1][1])
    assert found[0][0] != found[2][0] and not same(found[0][1], found[2][1])


def test_dropout_is_drawn_anew_each_update_and_off_in_evaluations(learner: Callable[..., Pretraining]) -> None:
    with_it, without = (
        learner(*NEXT, f"model.dropout={p}", "optimizer.learning_rate=1e-30", "optimizer.muon_learning_rate=1e-30",
                "optimizer.weight_decay=0")
        for p in (0.5, 0)
    )  # fmt: skip
    with_it.batches.make = without.batches.make = lambda ids, documents, step: without.make(ids, documents, 0)
    with_it.batches.get = lambda step: without.batches._fetch(0)  # type: ignore[method-assign]
    losses = [float(with_it.update()["train/loss"]) for _ in range(3)]
    assert len(set(losses)) == 3, "one batch, three drops"
    assert with_it.evaluate().metrics == without.evaluate().metrics


# ---- evaluations


@BOTH
def test_evaluations_leave_no_trace_in_training(kind: list[str], learner: Callable[..., Pretraining]) -> None:
    words = [*kind, "model.dropout=0.1", "ema_decay=0.9", "gradient_accumulation_steps=2"]
    watched, left_alone = learner(*words), learner(*words)
    for _ in range(4):
        found = watched.evaluate()
        assert found.texts["samples"] and found.metrics["validation/loss"] > 0
        watched.histograms()
        metrics, others = watched.update(), left_alone.update()
        assert {name: float(value) for name, value in metrics.items()} == {n: float(v) for n, v in others.items()}
    first, second = watched.state_dict(), left_alone.state_dict()
    for section in first:
        tensors = {name: part for name, part in first[section].items() if isinstance(part, Tensor)}
        assert same(tensors, {name: second[section][name] for name in tensors}), section
    assert watched.model.training


@BOTH
def test_an_evaluation_is_a_function_of_the_weights(kind: list[str], learner: Callable[..., Pretraining]) -> None:
    one = learner(*kind)
    first = one.evaluate()
    assert one.evaluate().metrics == first.metrics and one.evaluate().texts == first.texts
    one.update()
    assert one.evaluate().metrics != first.metrics


def test_evaluations_rest_on_as_many_tokens_as_asked(learner: Callable[..., Pretraining]) -> None:
    few, all_ = learner(*NEXT, "evaluate.tokens=64").evaluate(), learner(*NEXT).evaluate()
    assert few.records["tokens"] == 64 < all_.records["tokens"]


def test_the_averaged_weights_are_evaluated_and_the_own_ones_trained(learner: Callable[..., Pretraining]) -> None:
    averaged, plain = learner(*NEXT, "ema_decay=0.9"), learner(*NEXT)
    for _ in range(6):
        averaged.update()
        plain.update()
    assert same(parameters(averaged), parameters(plain))
    assert averaged.evaluate().metrics != plain.evaluate().metrics
    average = averaged.state_dict()["ema"]
    plain.model.load_state_dict({name: average[name] for name in plain.model.state_dict()})
    assert averaged.evaluate().metrics == plain.evaluate().metrics


# ---- the schedule


def test_the_step_size_follows_the_schedule(learner: Callable[..., Pretraining]) -> None:
    """32 updates, a quarter of them warmup, then half a cosine to a tenth."""
    one = learner(*NEXT, "optimizer=adamw", "optimizer.learning_rate=0.01", "optimizer.warmup=0.25")
    rates = [float(one.update()["train/learning_rate"]) for _ in range(34)]
    assert rates[:8] == pytest.approx([0.01 * n / 8 for n in range(1, 9)]), "the first update moves"
    for n in range(9, 33):
        cosine = (1 + math.cos(math.pi * (n - 8) / 24)) / 2
        assert rates[n - 1] == pytest.approx(0.01 * (0.1 + 0.9 * cosine))
    assert rates[31:] == pytest.approx([0.001] * 3), "and stays where it ended"


def test_the_schedule_is_of_the_budget_that_was_named(learner: Callable[..., Pretraining]) -> None:
    words = ["optimizer.schedule=linear", "optimizer.warmup=0", "optimizer.min_learning_rate=0"]
    one = learner(*NEXT, *words, "tokens=2048", "schedule_tokens=8192")
    assert one.scale(2048) == pytest.approx(0.75) and learner(*NEXT, *words, "tokens=2048").scale(2048) == 0


def test_the_step_is_taken_at_the_scheduled_size(learner: Callable[..., Pretraining]) -> None:
    """AdamW's first step moves each weight by the step size: twice as far when it is twice as large."""
    words = ["optimizer=adamw", "optimizer.weight_decay=0", "optimizer.schedule=constant", "optimizer.warmup=0.5"]
    moved = []
    for rate in (0.016, 0.032):
        one = learner(*NEXT, *words, f"optimizer.learning_rate={rate}")
        before = parameters(one)
        one.update()
        moved.append(max(float((after - before[name]).abs().max()) for name, after in parameters(one).items()))
    assert moved == pytest.approx([0.001, 0.002], rel=0.01), "a 16th of the peak, at the first of 16 warmup updates"


# ---- precision and compilation


@BOTH
def test_under_bf16_the_softmax_is_of_float32(
    kind: list[str], learner: Callable[..., Pretraining], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    real = F.cross_entropy

    def watched(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(logits.dtype)
        return real(logits, *args, **kwargs)

    monkeypatch.setattr(F, "cross_entropy", watched)
    words = [*kind, "batch_size=2", "sample.count=0"]
    half, full = learner(*words, "precision=bf16"), learner(*words, "precision=fp32")
    produced: list[torch.dtype] = []
    logits = half.model.logits

    def noted(hidden: Tensor) -> Tensor:
        found = logits(hidden)
        produced.append(found.dtype)
        return found

    monkeypatch.setattr(half.model, "logits", noted)
    loss = float(half.update()["train/loss"])
    half.evaluate()
    assert set(produced) == {torch.bfloat16} and set(seen) == {torch.float32}
    assert loss == pytest.approx(float(full.update()["train/loss"]), rel=2e-2)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32} and half.config.precision == "bf16"


def twins(learner: Callable[..., Pretraining], kind: list[str]) -> None:
    """Compiled and eager updates agree, and so do the names of what is saved."""
    words = [*kind, "optimizer=adamw", "gradient_accumulation_steps=2", "data.packing=stream"]
    compiled, eager = learner(*words, "compile=on"), learner(*words, "compile=off")
    for _ in range(4):
        found, expected = compiled.update(), eager.update()
        for tag in ("train/loss", "train/grad_norm"):
            assert float(found[tag]) == pytest.approx(float(expected[tag]), rel=1e-4)
    assert compiled.evaluate().metrics == pytest.approx(eager.evaluate().metrics, rel=1e-4)
    state, other = compiled.state_dict(), eager.state_dict()
    assert {s: list(state[s]) for s in state} == {s: list(other[s]) for s in other}
    assert not any("_orig_mod" in name for section in state.values() for name in section)
    for name, tensor in state["model"].items():
        torch.testing.assert_close(tensor, other["model"][name], rtol=1e-3, atol=1e-5, msg=name)
    assert compiled.config.compile == "on"


@BOTH
def test_a_traced_update_equals_its_eager_twin(
    kind: list[str], learner: Callable[..., Pretraining], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch.compile makes of the update, run without its code generator; one trace serves every update."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    if not can_compile(torch.device("cpu")):
        monkeypatch.setattr("rlgym.config.device.can_compile", lambda device: True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    twins(learner, kind)
    assert (
        torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1 and not torch._dynamo.utils.counters["graph_break"]
    )


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")
@BOTH
def test_a_compiled_update_equals_its_eager_twin(kind: list[str], learner: Callable[..., Pretraining]) -> None:
    torch._dynamo.reset()
    twins(learner, kind)


# ---- whole runs


def train(text: Path, folder: Path, *words: str) -> Run:
    return rlgym.pretrain(*tiny.words(text, *NEXT, "sample.count=0", *words, f"run.dir='{folder}'"))


def losses(run: Run) -> dict[int, float]:
    return {row["step"]: row["validation/loss"] for row in rows(run.dir) if "validation/loss" in row}


GROWS_WORSE = ["optimizer=adamw", "optimizer.learning_rate=4", "optimizer.warmup=0.99"]
"""The step size rises to the end: the loss falls at first, and rises once the steps are too long."""


def test_best_is_never_overwritten_by_a_worse_one(text: Path, tmp_path: Path) -> None:
    more = ["tokens=8192", "evaluate.every=512", "checkpoint.every=512", "checkpoint.keep=1"]
    run = train(text, tmp_path / "run", *GROWS_WORSE, *more)
    found = losses(run)
    best = min(found, key=lambda step: found[step])
    assert 512 < best < 4096 and found[8192] > found[best] + 0.2, found
    assert run.summary["best"] == {"validation/loss": found[best], "step": best}
    assert checkpoint.steps(run.dir) == [best, 8192], "the last one, and the best, however old"
    folder = checkpoint.best(run.dir)
    assert folder is not None and folder.name == f"step_{best}"
    weights = checkpoint.load(folder)[0]["model"]
    loaded = rlgym.load(run)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.model.state_dict().items())
    assert not torch.equal(loaded.model.embedding(), rlgym.load(run, "latest").model.embedding())

    # evaluated again, the best one is as good as it was said to be
    again = Pretraining(compose(tiny.words(text, *NEXT, "tokens=8192", "sample.count=0"), "pretrain"))
    again.model.load_state_dict(weights)
    assert again.evaluate().metrics["validation/loss"] == pytest.approx(found[best], rel=1e-6)
    again.close()


def test_patience_ends_a_run_that_no_longer_improves(text: Path, tmp_path: Path) -> None:
    more = ["tokens=16384", "evaluate.every=512", "stop.patience=3"]
    run = train(text, tmp_path / "run", *GROWS_WORSE, *more)
    found = losses(run)
    best = min(found, key=lambda step: found[step])
    assert run.exit_code == 0 and run.summary["status"] == "finished"
    assert run.summary["reason"] == "3 evaluations without a new best validation/loss"
    assert run.summary["steps"] == best + 3 * 512 < 16384 and run.summary["best"]["step"] == best


def test_a_goal_ends_a_run_that_reaches_it(text: Path, tmp_path: Path) -> None:
    run = train(text, tmp_path / "run", "tokens=16384", "evaluate.every=512", "stop.at=4")
    found = list(losses(run).values())
    assert found[-1] <= 4 < found[-2] and run.summary["reason"] == "reached validation/loss 4"


def test_the_averaged_weights_are_what_a_run_is_good_for(text: Path, tmp_path: Path) -> None:
    run = train(text, tmp_path / "run", "tokens=2048", "ema_decay=0.95", "checkpoint.every=1024")
    state = checkpoint.load(run.dir / "checkpoints" / "step_2048")[0]
    loaded = rlgym.load(run, "latest").model.state_dict()
    assert loaded.keys() == state["model"].keys() == state["ema"].keys() - {"ema_updates"}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, state["ema"][name]) and not torch.equal(tensor, state["model"][name]), name
    assert state["ema"]["ema_updates"] == 16


def test_a_compiled_run_saves_plain_names(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr("rlgym.config.device.can_compile", lambda device: True)
    run = train(text, tmp_path / "run", "tokens=512", "compile=on")
    for file in (run.dir / "checkpoints" / "step_512").iterdir():
        assert b"_orig_mod" not in file.read_bytes()
    assert rlgym.load(run).generate("the ", max_new_tokens=3)


# ---- the dial, and what does not go together


def test_depth_alone_settles_shape_batch_and_step_size(text: Path) -> None:
    words = [
        word for word in tiny.words(text, "model=llama", "model.depth=1", "model.block_size=32", "tokens=5_000_000")
    ]
    config = compose(
        [word for word in words if not word.startswith(("model.hidden", "model.num", "batch"))], "pretrain"
    )
    one = Pretraining(config)
    one.close()
    assert (config.model.num_hidden_layers, config.model.hidden_size, config.model.num_attention_heads) == (1, 64, 1)
    assert config.batch_size == 64 and config.optimizer.learning_rate == pytest.approx(4 * 6e-4 * math.sqrt(12))
    counted = sum(p.numel() for p in one.model.parameters())
    assert one.estimate.parameters == counted and f"{counted:,} parameters" in " ".join(one.notices)
    assert one.estimate.flops_per_token == 6 * (counted - 3 * 64) + 12 * 64 * 32, "two norms a layer and the last one"
    assert "64 x 32 = 2,048 tokens an update" in " ".join(one.notices)
    with pytest.raises(RequestError, match="model.depth is empty; model.depth=6 gives a whole model"):
        compose_and_build(text, "model=llama", "model.block_size=32")


def compose_and_build(text: Path, *words: str) -> None:
    plain = [word for word in tiny.words(text) if not word.startswith("model.")]
    Pretraining(compose([*plain, *words], "pretrain")).close()


def test_rows_that_hold_one_document_and_rows_that_hold_several(learner: Callable[..., Pretraining]) -> None:
    """Packing keeps documents apart, as a plain stream does not: the text before a document changes nothing in it."""
    packed, stream = (learner(*NEXT, "batch_size=16", f"data.packing={how}") for how in ("documents", "stream"))
    batch, other = packed.batches.get(0), stream.batches.get(0)
    assert torch.equal(batch["tokens"], other["tokens"]) and "documents" in batch and "documents" not in other
    tokens, documents = batch["tokens"][0], batch["documents"][0]
    row = int((documents.max(1).values > 0).nonzero()[0])
    cut = int((documents[row] > 0).nonzero()[0])
    changed = tokens[row : row + 1].clone()
    changed[0, : cut - 1] = changed[0, : cut - 1].flip(0)
    with torch.no_grad():
        for one, kept in ((packed, documents[row : row + 1]), (stream, None)):
            before, after = one.model(tokens[row : row + 1], kept), one.model(changed, kept)
            assert torch.equal(before[0, cut:], after[0, cut:]) is (kept is not None)
