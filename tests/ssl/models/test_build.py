"""The dial, what is refused, and what a model is said to cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from rlgym.errors import RequestError
from rlgym.ssl.config import BertModel, GPT2Model, LlamaModel, ModelConfig, ModernBertModel, Qwen3Model
from rlgym.ssl.models.build import (
    batch_size_for,
    build_model,
    estimate,
    learning_rate_for,
    model_class,
    resolve_model,
)
from rlgym.ssl.models.sizes import padded

FOLDER = Path(__file__).parents[3] / "conf" / "model"
KINDS: dict[str, type[ModelConfig]] = {
    "gpt2": GPT2Model,
    "llama": LlamaModel,
    "qwen3": Qwen3Model,
    "bert": BertModel,
    "modernbert": ModernBertModel,
}
SIZES = sorted(path.stem for path in FOLDER.glob("*_*.yaml"))
SMALL: dict[str, Any] = {"block_size": 64, "num_hidden_layers": 3, "hidden_size": 128, "num_attention_heads": 4}


def load(name: str) -> Any:
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    (schema,) = values.pop("defaults")
    config = KINDS[schema.removesuffix("_schema")](**values)
    resolve_model(config)
    return config


def on_paper(config: Any, tokens: int) -> Any:
    """The module without storage."""
    with torch.device("meta"):
        return model_class(config.architecture)(config, tokens, padded(tokens, config))


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_what_they_say(name: str) -> None:
    config = load(name)
    assert config.name == name
    model = on_paper(config, 5_000)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert estimate(config, 5_000, 1, model.causal).parameters == count
    said = re.search(r"(\d+) x (\d+), block (\d+): ([\d.]+)M", (FOLDER / f"{name}.yaml").read_text().splitlines()[0])
    assert said and said.groups()[:3] == tuple(
        str(n) for n in (config.num_hidden_layers, config.hidden_size, config.block_size)
    )
    assert float(said[4]) == pytest.approx((count - model.embedding().numel()) / 1e6, abs=0.06)


def test_there_are_sizes_from_a_third_of_a_million_to_350_million() -> None:
    for family, architecture in (("gpt", "gpt2"), ("llama", "llama"), ("qwen", "qwen3"), ("bert", "bert")):
        counts = [estimate(load(n), 8_192, 1, True).parameters for n in SIZES if re.match(f"{family}_", n)]
        assert min(counts) < 2e6 and max(counts) > 2.7e8, architecture
    assert all(estimate(load(name), 8_192, 1, True).parameters < 3.6e8 for name in SIZES)


@pytest.mark.parametrize("name", KINDS)
def test_one_dial_gives_a_whole_model(name: str) -> None:
    config: Any = KINDS[name](depth=3)
    model = build_model(config, 100, 1)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 192, 3)
    assert sum(p.numel() for p in model.parameters()) == estimate(config, 100, 1, True).parameters
    again: Any = KINDS[name](**vars(config))
    resolve_model(again)
    assert again == config  # what was found and recorded is found again
    own: Any = KINDS[name](depth=3, hidden_size=256, num_attention_heads=8)
    resolve_model(own)
    assert (own.num_hidden_layers, own.hidden_size, own.num_attention_heads) == (3, 256, 8)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GPT2Model(name="gpt2"), ["model.depth", "model.num_hidden_layers"]),
        (GPT2Model(depth=2, hidden_size=100, num_attention_heads=3), ["hidden_size=100", "heads=3", "=2 ", "=102"]),
        (LlamaModel(depth=2, hidden_size=90, num_attention_heads=6), ["num_attention_heads=6", "heads of 15", "=96"]),
        (Qwen3Model(depth=6, num_key_value_heads=4), ["num_key_value_heads=4", "num_attention_heads=6", "=3 would"]),
    ],
)
def test_what_does_not_go_together_is_refused(config: Any, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        build_model(config, 100, 1)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize(("name", "causal"), [(name, "bert" in name) for name in KINDS])
def test_an_objective_that_the_architecture_cannot_serve_is_refused(name: str, causal: bool) -> None:
    with pytest.raises(RequestError, match=f"model=x: {name} attends .* objective="):
        build_model(KINDS[name](name="x", depth=1), 100, 1, causal=causal)
    build_model(KINDS[name](name="x", depth=1), 100, 1, causal=not causal)


@pytest.mark.parametrize("name", KINDS)
def test_arithmetic_is_what_torch_counts(name: str) -> None:
    """Matrix products outside of attention, forward and backward; then attention in closed form."""
    from torch.utils.flop_counter import FlopCounterMode

    config: Any = KINDS[name](**SMALL)
    model = build_model(config, 300, 1)
    tokens = torch.randint(0, 300, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model.logits(model(tokens)).sum().backward()
    counted = sum(
        count
        for op, count in counter.get_flop_counts()["Global"].items()
        if "mm" in str(op) and "bmm" not in str(op) and "attention" not in str(op)
    )
    cost = estimate(config, 300, 2, model.causal)
    seen = 3 * 64 if name != "modernbert" else 3 * 64  # the window of 129 holds the whole block
    attention = 12 * 128 * seen
    assert counted / tokens.numel() == cost.flops_per_token - attention
    fewer = estimate(config, 300, 2, model.causal, predicted=0.25)
    head = 320 * 128 + (0 if model.causal else 128 * 128)
    assert cost.flops_per_token - fewer.flops_per_token == 6 * 0.75 * head


def test_local_attention_costs_what_it_sees() -> None:
    config = ModernBertModel(depth=6, block_size=512, local_attention=64)
    resolve_model(config)
    whole = ModernBertModel(depth=6, block_size=512, local_attention=2_048)
    resolve_model(whole)
    saved = estimate(whole, 100, 1, False).flops_per_token - estimate(config, 100, 1, False).flops_per_token
    assert saved == 12 * 384 * 4 * (512 - 65)  # four of six layers see 65 tokens instead of 512


@pytest.mark.parametrize("name", KINDS)
def test_memory_is_what_is_kept_for_the_backward_pass(name: str) -> None:
    config: Any = KINDS[name](**{**SMALL, "block_size": 128})
    model = build_model(config, 1_000, 1)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(0, 1_000, (8, 128))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(model.logits(model(tokens)).flatten(0, 1), tokens.flatten())
    loss.backward()
    logits = 4 * tokens.numel() * model.vocab_size  # and their gradient, while it is made
    measured = sum(kept.values()) + logits + 16 * sum(p.numel() for p in model.parameters())
    assert estimate(config, 1_000, 8, model.causal).memory_bytes == pytest.approx(measured, rel=0.25)


def test_what_follows_from_the_dial() -> None:
    assert learning_rate_for(768) == pytest.approx(6e-4)
    assert learning_rate_for(192) == pytest.approx(2 * 6e-4)
    assert learning_rate_for(768, beside_muon=True) == pytest.approx(4 * 6e-4)
    assert batch_size_for(5_000_000, 64) * 64 == 2_048
    sizes = [batch_size_for(tokens, 256) for tokens in (10_000, 10**6, 10**7, 10**9, 10**11)]
    assert sizes == sorted(sizes) and all(size & (size - 1) == 0 and size >= 1 for size in sizes)
    # Twice the exponent's worth of tokens, twice the batch.
    ratio = batch_size_for(5_000_000 * 2**10, 64) / batch_size_for(5_000_000, 64)
    assert ratio == 2 ** round(0.383 * 10)
