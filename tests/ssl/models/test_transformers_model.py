"""Architectures of transformers by name: heads, documents, tied weights, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.ssl.config import TransformersModel
from rlgym.ssl.models.build import build_model, estimate

SMALL: dict[str, object] = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
KINDS: dict[str, tuple[bool, dict[str, object]]] = {
    "gpt_neox": (True, SMALL),
    "mistral": (True, SMALL | {"num_key_value_heads": 2, "sliding_window": None}),
    "gemma2": (True, SMALL | {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 64}),
    "roberta": (False, SMALL),
    "distilbert": (False, {"n_layers": 2, "dim": 64, "n_heads": 4, "hidden_dim": 96}),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def build(kind: str, **more: Any) -> Any:
    causal, values = KINDS[kind]
    model = build_model(TransformersModel(model_type=kind, block_size=32, config=values), 100, 1, causal, **more)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def blocks() -> Tensor:
    return torch.randint(3, 100, (2, 32), generator=torch.Generator().manual_seed(3))


@EVERY
def test_logits_are_the_architectures_own(kind: str) -> None:
    """By way of hidden states, with weights far from where the head was looked at (large logits bend Gemma's)."""
    model, tokens = build(kind), blocks()
    with torch.no_grad():
        model.inner.get_output_embeddings().weight.mul_(20)
        expected = model.inner(input_ids=tokens).logits
        torch.testing.assert_close(model.logits(model(tokens)), expected, rtol=1e-4, atol=1e-4)


@EVERY
def test_documents_are_kept_apart(kind: str) -> None:
    model, tokens = build(kind, documents=True), blocks()
    documents = (torch.arange(32) >= 20).long().expand(2, 32)
    with torch.no_grad():
        both = model.logits(model(tokens, documents))
        for part in (slice(0, 20), slice(20, 32)):
            alone = model.logits(model(tokens[:, part]))
            torch.testing.assert_close(both[:, part], alone, rtol=1e-4, atol=1e-4)
        changed = tokens.clone()
        changed[:, :20] = tokens[:, :20].flip(1)
        assert torch.equal(model.logits(model(changed, documents))[:, 20:], both[:, 20:])


@EVERY
def test_tied_weights_are_held_once_and_stay_tied(kind: str) -> None:
    model = build(kind)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pointers = [tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()]
    assert len(pointers) == len(set(pointers))
    model.load_state_dict(state)
    tied = bool(model.tied)
    same = model.inner.get_output_embeddings().weight.data_ptr() == model.embedding().data_ptr()
    assert same is tied is (kind in ("gemma2", "roberta", "distilbert"))


@EVERY
def test_round_trip_and_estimate(kind: str) -> None:
    model, tokens = build(kind), blocks()
    config, state = model.to_transformers()
    assert config.vocab_size == model.vocab_size == 128
    assert estimate(model.config, 100, 1, model.causal).parameters == sum(p.numel() for p in model.parameters())
    other = build_model(model.config, 100, 9, model.causal).eval()
    other.load_transformers(state)
    with torch.no_grad():
        assert torch.equal(other(tokens), model(tokens))
    assert set(model.matrices()) == {name for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name}


def test_weights_are_drawn_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    config = TransformersModel(model_type="gpt_neox", block_size=32, config=SMALL)
    a, b, c = (build_model(config, 100, seed, True) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.embedding(), b.embedding()) and not torch.equal(a.embedding(), c.embedding())


@pytest.mark.parametrize(
    ("kind", "causal", "values", "message"),
    [
        ("gptneox", True, {}, "did you mean model.model_type=gpt_neox"),
        ("", True, {}, "is not an architecture"),
        ("t5", True, {}, "no next-token head"),
        ("gpt_neox", True, {"num_hiden_layers": 2}, "did you mean model.config.num_hidden_layers"),
        ("gpt_neox", True, SMALL | {"hidden_size": "wide"}, "hidden_size"),
        ("mistral", True, SMALL, "num_attention_heads=4.* cannot|cannot be built .*num_attention_heads=4"),
        ("bert", True, SMALL, "attends to both sides"),
        ("bert", False, SMALL | {"is_decoder": True}, "attends only to the left"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(kind: str, causal: bool, values: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        build_model(TransformersModel(model_type=kind, block_size=32, config=values), 100, 1, causal)
    assert "\n" not in str(caught.value) and "model." in str(caught.value)


def test_documents_that_cannot_be_kept_apart_are_refused() -> None:
    bloom = TransformersModel(model_type="bloom", block_size=32, config={"n_layer": 2, "hidden_size": 64, "n_head": 4})
    with pytest.raises(RequestError, match="data.packing=stream"):
        build_model(bloom, 100, 1, True, documents=True)
    model = build_model(bloom, 100, 1, True)
    with pytest.raises(RequestError, match="data.packing=stream"):
        model(blocks(), torch.zeros(2, 32))
    window = TransformersModel(
        model_type="mistral", block_size=32, config=SMALL | {"num_key_value_heads": 4, "sliding_window": 8}
    )
    with pytest.raises(RequestError, match="data.packing=stream"):
        build_model(window, 100, 1, True, documents=True)
