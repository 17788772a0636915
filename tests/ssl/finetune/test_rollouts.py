"""Completions, their masks and what they are scored under, against the model token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlgym.ssl.config import Qwen3Model
from rlgym.ssl.data.build_tokenizer import byte_backend
from rlgym.ssl.data.tokenizer import CAUSAL, Tokenizer
from rlgym.ssl.finetune.rollouts import Sampling, behind, distinct, diversity, repetition, roll_out
from rlgym.ssl.inference.sampling import log_probabilities, warp
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.build import build_model

TOKENIZER = Tokenizer(byte_backend(CAUSAL), CAUSAL)
EOS, PAD = TOKENIZER.eos_id, TOKENIZER.pad_id


def build(dropout: float = 0.0) -> Backbone:
    config: Any = Qwen3Model(block_size=48, num_hidden_layers=2, hidden_size=32, num_attention_heads=2, dropout=dropout)
    model = build_model(config, TOKENIZER.vocab_size, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


PROMPTS = [[EOS, *TOKENIZER.encode(text)] for text in ("ab", "def f(x):", "", "xyz", "ab")]


def test_masks_lengths_and_the_end_of_text() -> None:
    new = [[5, 6, EOS], [7], [EOS], [8, 9, 10, 11], [5, EOS]]
    found = behind(TOKENIZER, PROMPTS, new, torch.device("cpu"))
    assert found.lengths.tolist() == [3, 1, 1, 4, 2]
    assert found.ended.tolist() == [True, False, True, False, True]
    assert found.tokens.shape[1] == max(len(p) + len(n) for p, n in zip(PROMPTS, new, strict=True))
    for row, (prompt, tokens) in enumerate(zip(PROMPTS, new, strict=True)):
        assert found.tokens[row][found.mask[row]].tolist() == tokens
        assert found.tokens[row, : len(prompt)].tolist() == prompt
        assert (found.tokens[row, len(prompt) + len(tokens) :] == PAD).all()
    assert found.texts[2] == "" and found.texts[0] == TOKENIZER.decode([5, 6])


def test_the_generator_decides_and_rows_come_back_in_order() -> None:
    model, sampling = build(dropout=0.5), Sampling(12)
    first, again, other = (
        roll_out(model, TOKENIZER, PROMPTS, sampling, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.tokens, again.tokens) and first.texts == again.texts
    assert not torch.equal(first.tokens, other.tokens)
    for row, prompt in enumerate(PROMPTS):
        assert first.tokens[row, : len(prompt)].tolist() == prompt
    assert first.texts[0] != first.texts[4], "equal prompts have completions of their own"
    assert int(first.lengths.max()) <= 12


@pytest.mark.parametrize(
    "sampling",
    [Sampling(10), Sampling(10, 0.7), Sampling(10, 1.3, 5), Sampling(10, 1.0, None, 0.8), Sampling(9, 0.9, 20, 0.9)],
)
def test_log_probabilities_are_those_of_the_distribution_that_sampled(sampling: Sampling) -> None:
    """Scored at once by a forward pass over the whole text; here token by token, each from its own context alone."""
    model = build().eval()
    found = roll_out(model, TOKENIZER, PROMPTS, sampling, torch.Generator().manual_seed(3))
    with torch.no_grad():
        row, column = found.mask.nonzero(as_tuple=True)
        logits = model.logits(model(found.tokens)[row, column - 1])[:, : model.tokens]
        tokens = found.tokens[row, column]
        knobs = (sampling.temperature, sampling.top_k, sampling.top_p)
        log_prob, entropy = log_probabilities(logits, tokens, *knobs)
        for at in range(len(row)):
            context = found.tokens[row[at] : row[at] + 1, : column[at]]
            alone = warp(model.logits(model(context))[0, -1, : model.tokens], *knobs).log_softmax(-1)
            assert alone[tokens[at]] > -torch.inf, "the sampler drew what it could not have"
            assert abs(float(alone[tokens[at]] - log_prob[at])) < 1e-5
            share = alone.exp()
            assert abs(float(-(share[share > 0] * alone[share > 0]).sum() - entropy[at])) < 1e-4


def test_a_token_that_fell_out_of_what_is_kept_has_a_gradient() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]], requires_grad=True)
    log_prob, entropy = log_probabilities(logits, torch.tensor([3]), 1.0, top_k=2)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and entropy.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[0, 3] > 0
    kept = torch.tensor([3.0, 2.0, 0.0])
    assert float(log_prob.detach()) == pytest.approx(float(kept.log_softmax(-1)[2]))


def test_entropy_of_a_truncated_distribution_has_no_nan_gradient() -> None:
    logits = torch.randn(3, 9, requires_grad=True)
    _, entropy = log_probabilities(logits, torch.tensor([0, 1, 2]), 0.8, top_k=4, top_p=0.7)
    entropy.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_distinct_and_repetition() -> None:
    assert distinct([[1, 2, 1, 2], [1, 2]], 1) == pytest.approx(2 / 6)
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == pytest.approx(2 / 4)
    assert distinct([[1]], 2) == 1.0
    assert repetition([[1, 2, 1, 2, 1, 2, 3]], 2) == pytest.approx(1 - 3 / 6)
    assert repetition([[1]], 4) == 0.0
    found = behind(TOKENIZER, PROMPTS[:2], [[5, 5, 5], [5, EOS]], torch.device("cpu"))
    assert diversity(found) == {"distinct_1": 2 / 5, "distinct_2": 2 / 3, "repetition": 0.0}
