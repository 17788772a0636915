"""Layers compiled against the same layers in torch's words, and when they are taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from rlgym.common import jit
from rlgym.config.compose import compose
from rlgym.errors import RequestError
from rlgym.ssl import pretraining
from rlgym.ssl.models import kernels, layer_kernels
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.pretraining import Pretraining
from tests.ssl.models.test_models import EVERY, TOKENS, build

TIME = 80
"""More than one block of queries."""


def batch(rows: int = 5) -> tuple[Tensor, Tensor]:
    """Tokens, and documents of unequal lengths, both `[rows, time]`."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, TOKENS, (rows, TIME), generator=generator)
    return tokens, (torch.rand(rows, TIME, generator=generator) < 0.05).cumsum(1)


def passes(model: Backbone, tokens: Tensor, documents: Tensor | None) -> dict[str, Tensor]:
    """Hidden states and the gradients of a sum of them."""
    model.zero_grad()
    hidden = model(tokens, documents)
    (hidden * torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"hidden": hidden.detach(), **found}


@EVERY
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_values_and_gradients_equal_torchs(family: str, packed: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    model = build(family, block_size=TIME)
    tokens, documents = batch()
    theirs = passes(model, tokens, documents if packed else None)
    model.kernels = True
    ours, again = (passes(model, tokens, documents if packed else None) for _ in range(2))
    assert torch.get_num_threads() == threads, "as many as were asked for, afterwards too"
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        size = float(theirs[name].abs().max())
        torch.testing.assert_close(found, theirs[name], rtol=1e-4, atol=2e-5 * size, msg=name)
        assert torch.equal(found, again[name]), f"{name}: the same bits each time"


@EVERY
def test_fewer_rows_than_threads_and_a_lone_token(family: str) -> None:
    torch.set_num_threads(4)
    model = build(family, block_size=TIME)
    for tokens in (batch(rows=2)[0], batch(rows=1)[0][:, :1]):
        theirs = passes(model, tokens, None)
        model.kernels = True
        for name, found in passes(model, tokens, None).items():
            torch.testing.assert_close(
                found, theirs[name], rtol=1e-4, atol=2e-5 * float(theirs[name].abs().max()) + 1e-6
            )
        model.kernels = False


def test_what_is_not_finite_stays_so() -> None:
    model = build("gpt2", block_size=TIME)
    model.kernels = True
    with torch.no_grad():
        model.get_parameter("transformer.h.0.mlp.c_fc.weight")[0, 0] = math.nan
    assert passes(model, *batch())["hidden"].isnan().all()


def test_a_cache_takes_torchs_way() -> None:
    model = build("gpt2", block_size=TIME)
    model.kernels = True
    tokens, _ = batch()
    with torch.no_grad():
        cache = model.new_cache(len(tokens))
        assert cache is not None
        found = torch.cat([model(tokens[:, :50], cache=cache), model(tokens[:, 50:], cache=cache)], 1)
        torch.testing.assert_close(found, model(tokens), rtol=1e-4, atol=1e-4)


def test_products_are_one_threads_whatever_another_run_said() -> None:
    """Shares that each ask for every core would wait for one another, ten times as long."""
    model = build("gpt2", block_size=TIME)
    model.kernels = True
    passes(model, *batch())
    threadpool_limits(2, user_api="blas")  # what the next run of the same process does
    passes(model, *batch())
    found = [pool["num_threads"] for pool in threadpool_info() if pool["internal_api"] == "openblas"]
    assert found and set(found) == {1}


def test_bits_are_not_the_compilers_choice() -> None:
    """With fast math, code has other bits in the process that compiles it than in one that reads it, and resumes."""
    found = [each for module in (kernels, layer_kernels) for each in vars(module).values() if hasattr(each, "py_func")]
    assert len(found) > 30 and not any(each.targetoptions.get("fastmath") for each in found)


def test_exp_to_the_last_digits() -> None:
    x = np.linspace(-86, 88, 20_001).astype(np.float32)
    found = np.array([kernels.exp(value) for value in x])
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=3e-7)
    assert kernels.exp(np.float32(-90)) == kernels.exp(np.float32(-np.inf)) == 0 and math.isnan(
        kernels.exp(np.float32("nan"))
    )


# ---- compile=kernels


KINDS: dict[str, list[str]] = {
    "next_token": ["objective=next_token", "model=qwen_nano"],
    "masked": ["objective=masked", "model=bert_nano"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_updates_equal_the_eager_twins(kind: str, learner: Callable[..., Pretraining]) -> None:
    words = [*KINDS[kind], "optimizer=adamw", "gradient_accumulation_steps=2"]
    ours, eager = learner(*words, "compile=kernels"), learner(*words, "compile=off", "precision=fp32")
    assert ours.config.precision == "fp32", "on a CPU with units for bf16 too"
    for _ in range(4):
        found, expected = ours.update(), eager.update()
        for tag in ("train/loss", "train/grad_norm"):
            assert float(found[tag]) == pytest.approx(float(expected[tag]), rel=1e-4)
    assert ours.evaluate().metrics == pytest.approx(eager.evaluate().metrics, rel=1e-4)


def test_a_resume_is_bit_exact(learner: Callable[..., Pretraining]) -> None:
    words = [*KINDS["next_token"], "compile=kernels"]
    whole, first, second = (learner(*words) for _ in range(3))
    for _ in range(2):
        whole.update(), first.update()
    second.load_state_dict({name: {k: _copy(v) for k, v in part.items()} for name, part in first.state_dict().items()})
    for _ in range(2):
        assert float(whole.update()["train/loss"]) == float(second.update()["train/loss"])
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def test_auto_takes_them_where_the_budget_repays(learner: Callable[..., Pretraining]) -> None:
    large = "tokens=100_000_000"
    assert learner("model=gpt_nano").config.compile == "off"
    found = learner("model=gpt_nano", large)
    assert (
        found.config.compile == "kernels"
        and found.model.kernels
        and any("compile kernels" in line for line in found.notices)
    )
    for word in ("model.dropout=0.1", "precision=bf16", "compile=off"):
        other = learner("model=gpt_nano", large, word)
        assert other.config.compile == "off" and not other.model.kernels, word


def test_the_first_run_on_a_machine_says_that_it_will_compile(
    learner: Callable[..., Pretraining], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "kernels    the first update compiles the layers, once for this machine: about a minute"
    first = learner("model=gpt_nano", "compile=kernels")
    first.update()
    assert line not in learner("model=gpt_nano", "compile=kernels").notices
    monkeypatch.setattr(jit, "is_compiled", lambda function: False)
    assert learner("model=gpt_nano", "compile=kernels").notices[-1] == line


def test_blocks_too_long_are_torchs(learner: Callable[..., Pretraining], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "LONGEST", 31)
    assert learner("model=gpt_nano", "model.block_size=32", "tokens=100_000_000").config.compile == "off"
    with pytest.raises(RequestError, match="^compile=kernels: .*at most 31 tokens, and model.block_size=32; compile"):
        learner("model=gpt_nano", "model.block_size=32", "compile=kernels")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("model=gpt_nano model.dropout=0.1", "model.dropout=0.1"),
        ("model=gpt_nano precision=bf16", "precision=bf16"),
    ],
)
def test_what_they_are_not_for_is_refused(words: str, why: str, learner: Callable[..., Pretraining]) -> None:
    with pytest.raises(RequestError, match=rf"^compile=kernels: .*{why}.*; compile=off would do$"):
        learner(*words.split(), "compile=kernels")


def test_architectures_of_transformers_are_refused(cache: Path, text: Path) -> None:
    words = ["data=text", f"data.path=['{text}']", "data.validation_fraction=0.1", "tokenizer=byte", "threads=1"]
    shape = ["model=transformers", "model.model_type=gpt_neox", "model.block_size=32", "compile=kernels"]
    with pytest.raises(RequestError, match="^compile=kernels: .*have layers of their own; compile=off would do$"):
        Pretraining(compose([*words, *shape], "pretrain"))
