"""The distribution that is sampled from, by brute force; batched, cached and sliding sampling against the plain one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rlgym.ssl.config import GPT2Model, Qwen3Model
from rlgym.ssl.inference import sampling
from rlgym.ssl.inference.sampling import draw, sample, warp
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.build import build_model

TOKENS = 50
BLOCK = 16


def build(family: type[Any] = GPT2Model) -> Backbone:
    config = family(block_size=BLOCK, num_hidden_layers=2, hidden_size=32, num_attention_heads=2)
    model = build_model(config, TOKENS, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


FAMILIES = pytest.mark.parametrize("family", [GPT2Model, Qwen3Model])
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]]


def plain(model: Backbone, prompt: list[int], count: int) -> list[int]:
    """Greedy, one token at a time, the whole of what may be seen each time; half of it is forgotten when full."""
    model.eval()
    text, seen = list(prompt), min(len(prompt), model.block_size)
    with torch.no_grad():
        for _ in range(count):
            logits = model.logits(model(torch.tensor([text[len(text) - seen :]])))[0, -1, : model.tokens]
            text.append(int(logits.argmax()))
            seen = model.block_size // 2 if seen == model.block_size else seen + 1
    return text[len(prompt) :]


# ---- the distribution


@pytest.mark.parametrize("temperature", (1.0, 0.7))
@pytest.mark.parametrize("top_k", (None, 1, 5, 100))
@pytest.mark.parametrize("top_p", (None, 0.05, 0.6, 1.0))
def test_warp_by_brute_force(temperature: float, top_k: int | None, top_p: float | None) -> None:
    logits = torch.randn(4, 12, generator=torch.Generator().manual_seed(0)) * 2
    warped = warp(logits, temperature, top_k, top_p).softmax(-1)
    for row, got in zip(logits.tolist(), warped, strict=True):
        weights = {token: math.exp(value / temperature) for token, value in enumerate(row)}
        ranked = sorted(weights, key=lambda token: -weights[token])[: top_k or None]
        total, kept, reached = sum(weights[token] for token in ranked), [], 0.0
        for token in ranked:
            kept.append(token)
            reached += weights[token] / total
            if top_p is not None and reached >= top_p:
                break
        total = sum(weights[token] for token in kept)
        expected = [weights[token] / total if token in kept else 0.0 for token in range(12)]
        torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_warp_equals_transformers_own() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(64, 200, generator=torch.Generator().manual_seed(1)) * 3
    none = torch.zeros(64, 1, dtype=torch.int64)
    theirs: Any = logits
    for step in (TemperatureLogitsWarper(0.8), TopKLogitsWarper(40), TopPLogitsWarper(0.9)):
        theirs = step(none, theirs)
    torch.testing.assert_close(warp(logits, 0.8, 40, 0.9), theirs)


def test_no_temperature_leaves_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.9]])
    assert warp(logits, 0.0).softmax(-1).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_tokens_are_drawn_at_their_rates() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, -torch.inf, 2.0])
    count = 100_000
    drawn = draw(logits.expand(count, -1), torch.Generator().manual_seed(0))
    rates = torch.bincount(drawn, minlength=5) / count
    expected = logits.softmax(-1)
    bound = 4.5 * (expected * (1 - expected) / count).sqrt()
    assert ((rates - expected).abs() <= bound).all() and rates[3] == 0


# ---- the sampling


@FAMILIES
def test_greedy_rows_are_as_if_alone(family: type[Any]) -> None:
    """Prompts of unequal length, on past the end of the block, where each row forgets at a time of its own."""
    model = build(family)
    together = sample(model, PROMPTS, 40, temperature=0)
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert row == plain(model, prompt, 40)
        assert sample(model, [prompt], 40, temperature=0) == [row]
    assert len({tuple(row) for row in together}) == len(PROMPTS)


@FAMILIES
def test_without_a_cache_the_same(family: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(family)
    cached = sample(model, PROMPTS, 40, temperature=0)
    monkeypatch.setattr(type(model), "new_cache", lambda self, batch: None)
    assert sample(model, PROMPTS, 40, temperature=0) == cached


@pytest.mark.parametrize("length", (BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK))
def test_a_prompt_longer_than_the_block(length: int) -> None:
    model = build()
    prompts = [[(7 * i) % TOKENS for i in range(length)], [3]]
    assert sample(model, prompts, 20, temperature=0) == [plain(model, prompt, 20) for prompt in prompts]


def test_greedy_equals_transformers_generate() -> None:
    import transformers

    model = build(Qwen3Model)
    config, state = model.to_transformers()
    auto: Any = transformers.AutoModelForCausalLM
    other = auto.from_config(config)
    other.load_state_dict(state, strict=False)
    other.tie_weights()
    other.eval()
    padding = list(range(model.tokens, model.vocab_size))
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "suppress_tokens": padding}
    for prompt in PROMPTS:
        theirs: Any = other.generate(torch.tensor([prompt]), **settings)
        (ours,) = sample(model, [prompt], 8, temperature=0)
        assert ours == theirs[0, len(prompt) :].tolist()


def test_a_row_ends_with_its_stop_token() -> None:
    model = build()
    free = sample(model, PROMPTS, 60, temperature=0)
    at = next(i for i in range(2, 60) if free[0][i] not in free[0][:i])
    stop = free[0][at]
    stopped = sample(model, PROMPTS, 60, temperature=0, stop=[stop])
    for row, whole in zip(stopped, free, strict=True):
        assert row == (whole[: whole.index(stop) + 1] if stop in whole else whole)
    assert len(stopped[0]) == at + 1


@FAMILIES
@pytest.mark.parametrize("cached", [True, False])
def test_rows_that_stopped_leave_and_the_others_go_on(
    family: type[Any], cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the block's end too; each row is what it is alone."""
    model = build(family)
    if not cached:
        monkeypatch.setattr(type(model), "new_cache", lambda self, batch: None)
    free = sample(model, PROMPTS, 60, temperature=0)
    left: list[int] = []
    keep = sampling._Rows.keep

    def watched(self: Any, rows: list[int]) -> None:
        left.append(len(rows))
        keep(self, rows)

    monkeypatch.setattr(sampling._Rows, "keep", watched)
    for stop in {token for row in free for token in row}:
        stopped = sample(model, PROMPTS, 60, temperature=0, stop=[stop])
        assert stopped == [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert left, "none left a batch that went on"


def test_sampling_draws_from_the_model() -> None:
    """The first token's rates are the model's probabilities; rows of padding are never drawn."""
    model = build()
    assert model.vocab_size > model.tokens
    count, prompt = 20_000, [1, 2, 3]
    before = torch.get_rng_state()
    drawn = sample(model, [prompt] * count, 1, 0.9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    rates = torch.bincount(torch.tensor(drawn).flatten(), minlength=model.tokens) / count
    with torch.no_grad():
        expected = (model.logits(model(torch.tensor([prompt])))[0, -1, : model.tokens] / 0.9).softmax(-1)
    assert len(rates) == model.tokens
    assert ((rates - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt() + 1e-4).all()


def test_the_generator_decides_and_training_goes_on() -> None:
    model = build().train()
    first, second, third = (
        sample(model, PROMPTS, 12, 1.0, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == second != third
    assert model.training and model.embedding().requires_grad and not model.embedding().is_inference()
