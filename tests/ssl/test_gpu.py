"""Learning from text on a CUDA device: the checks that need one (`make test-all` on a machine that has it)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlgym.config.compose import compose
from rlgym.optim.muon import orthogonal
from rlgym.ssl.config import BertModel, GPT2Model, LlamaModel, ModernBertModel, Qwen3Model
from rlgym.ssl.models.build import build_model
from rlgym.ssl.objectives.base import Batch, parts
from rlgym.ssl.pretraining import Pretraining
from tests.ssl import tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

DEVICE = "cuda"
SHAPE: dict[str, Any] = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "block_size": 48}
FAMILIES: dict[str, Any] = {
    "gpt2": GPT2Model,
    "llama": lambda **shape: LlamaModel(**shape, num_key_value_heads=2),
    "qwen3": lambda **shape: Qwen3Model(**shape, num_key_value_heads=1),
    "bert": BertModel,
    "modernbert": lambda **shape: ModernBertModel(**shape, local_attention=11),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("corpus")
    with tiny.cache(folder / "cache"):
        yield tiny.write_text(folder / "text")


def learner(text: Path, *words: str, device: str = DEVICE) -> Pretraining:
    wanted = ["model=gpt2", "optimizer=adamw", "precision=fp32", "compile=off", "tokens=100_000", f"device={device}"]
    return Pretraining(compose(tiny.words(text, *wanted, *words), "pretrain"))


def same_batches(one: Pretraining, other: Pretraining, step: int) -> None:
    first, second = one.batches.get(step), other.batches.get(step)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor.cpu(), second[name].cpu()), name


@pytest.mark.parametrize(
    "words",
    [
        ["gradient_accumulation_steps=2"],
        ["model=qwen3", "optimizer=adamw"],
        ["objective=masked", "model=bert"],
        ["objective=masked", "model=modernbert", "data.packing=stream"],
    ],
    ids=lambda words: "-".join(words),
)
def test_updates_equal_the_cpus(text: Path, words: list[str]) -> None:
    """The same blocks, masks and weights: losses, norms and weights agree over updates, to rounding."""
    gpu, cpu = learner(text, *words), learner(text, *words, device="cpu")
    for step in range(4):
        same_batches(gpu, cpu, step)
        there, here = gpu.update(), cpu.update()
        for tag in ("train/loss", "train/grad_norm"):
            torch.testing.assert_close(torch.as_tensor(there[tag]).cpu(), here[tag], rtol=1e-4, atol=1e-5)
    # AdamW turns a gradient of rounding's size into a whole step: almost all weights agree, and none is far.
    step_size = 4 * float(cpu.config.optimizer.learning_rate)
    distance = (gpu.optimizer.flat.parameters.cpu() - cpu.optimizer.flat.parameters).abs()
    assert distance.max() <= 2 * step_size and (distance > 1e-4).float().mean() < 0.01
    for one in (gpu, cpu):
        one.close()


def test_what_an_update_reports_stays_on_the_device(text: Path) -> None:
    """Nothing waits for the GPU but a log point."""
    gpu = learner(text)
    metrics = gpu.update()
    on_device = {tag for tag, value in metrics.items() if isinstance(value, Tensor) and value.is_cuda}
    assert on_device == {"train/loss", "train/grad_norm", "train/non_finite"}
    gpu.close()


def test_a_non_finite_gradient_is_withheld_on_the_device(text: Path) -> None:
    for optimizer in ("adamw", "muon"):
        gpu = learner(text, f"optimizer={optimizer}")
        gpu.update()
        before = gpu.optimizer.flat.parameters.clone()
        loss = torch.full((), torch.nan, device=DEVICE)
        _, skipped = gpu.optimizer.step(1.0, loss)
        assert skipped.item() == 1 and torch.equal(before, gpu.optimizer.flat.parameters), optimizer
        gpu.close()


# ---- documents


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_documents_stay_apart(family: str, precision: torch.dtype) -> None:
    """Another document in front changes nothing behind it, to the bit; and in fp32 all is as on the CPU."""
    model = build_model(FAMILIES[family](**SHAPE), 100, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    tokens = torch.randint(0, 100, (3, 48), generator=generator)
    changed = tokens.clone()
    changed[:, :20] = (changed[:, :20] + 1) % 100
    documents = torch.zeros(3, 48, dtype=torch.int32)
    documents[:, 20:] = 1
    expected = model.logits(model(tokens, documents)).detach()
    model = model.to(DEVICE)
    found = []
    with torch.no_grad(), torch.autocast(DEVICE, precision, enabled=precision != torch.float32):
        for given in (tokens, changed):
            found.append(model.logits(model(given.to(DEVICE), documents.to(DEVICE))).float().cpu())
    assert torch.equal(found[0][:, 20:], found[1][:, 20:]) and not torch.equal(found[0][:, :20], found[1][:, :20])
    if precision == torch.float32:
        torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-3)
    else:
        assert (found[0] - expected).abs().mean() < 0.05 * expected.abs().mean()


# ---- batches


def test_batches_are_pinned_and_fetched_ahead(text: Path) -> None:
    gpu = learner(text)
    fetched: Batch = gpu.batches._fetch(3)
    assert all(tensor.is_pinned() for tensor in fetched.values())
    taken = gpu.batches.get(3)
    assert all(tensor.is_cuda for tensor in taken.values())
    ahead = gpu.batches._next
    assert ahead is not None and ahead[0] == 4 and all(t.is_pinned() for t in ahead[1].result().values())
    # What was copied stays right although its pinned memory is used again, in any order of asking.
    kept = [gpu.batches.get(step) for step in range(8)]
    for step, batch in enumerate(kept):
        for name, tensor in gpu.batches._fetch(step).items():
            assert torch.equal(batch[name].cpu(), tensor), (step, name)
    gpu.close()


# ---- precision and compilation


def test_auto_takes_bf16_and_its_loss_is_near_fp32s(text: Path) -> None:
    exact, chosen = learner(text), learner(text, "precision=auto")
    assert chosen.config.precision == "bf16"
    for _ in range(3):
        a, b = exact.update()["train/loss"], chosen.update()["train/loss"]
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
    assert all(parameter.dtype == torch.float32 for parameter in chosen.model.parameters())
    for one in (exact, chosen):
        one.close()


@pytest.mark.parametrize("words", [[], ["objective=masked", "model=bert"]], ids=["next_token", "masked"])
def test_compiled_equals_eager(text: Path, words: list[str]) -> None:
    eager, compiled = learner(text, *words), learner(text, *words, "compile=on")
    for _ in range(3):
        a, b = eager.update(), compiled.update()
        torch.testing.assert_close(a["train/loss"], b["train/loss"], rtol=1e-3, atol=1e-3)
    assert not any("_orig_mod" in name for name in compiled.state_dict()["model"])
    for one in (eager, compiled):
        one.close()


def test_muons_direction_is_nearly_orthogonal_in_bf16() -> None:
    batch = torch.randn(4, 96, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(batch.to(DEVICE), 5).float().cpu())
    assert values.min() > 0.5 and values.max() < 1.3


# ---- state


def test_a_state_goes_on_as_it_would_have(text: Path) -> None:
    first, second = learner(text, "ema_decay=0.9"), learner(text, "ema_decay=0.9")
    for _ in range(2):
        first.update()
    second.load_state_dict(first.state_dict())
    assert second.progress == first.progress
    a, b = first.update(), second.update()
    torch.testing.assert_close(a["train/loss"], b["train/loss"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.optimizer.flat.parameters, second.optimizer.flat.parameters, rtol=1e-3, atol=1e-4)
    for one in (first, second):
        one.close()


def test_evaluates_and_samples_there(text: Path) -> None:
    gpu = learner(text)
    gpu.update()
    found = gpu.evaluate()
    cpu = learner(text, device="cpu")
    cpu.load_state_dict(
        {
            name: {k: v.cpu() if isinstance(v, Tensor) else v for k, v in part.items()}
            for name, part in gpu.state_dict().items()
        }
    )
    assert found.metrics["validation/loss"] == pytest.approx(cpu.evaluate().metrics["validation/loss"], rel=1e-4)
    assert found.texts["samples"]
    part = parts(gpu.batches.get(0))[0]
    assert gpu.part_loss(part)[0].is_cuda
    for one in (gpu, cpu):
        one.close()
