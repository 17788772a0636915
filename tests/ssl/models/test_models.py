"""The models against transformers' own modules, packed documents, and the cache of keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.ssl.config import BertModel, GPT2Model, LlamaModel, ModernBertModel, Qwen3Model
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.build import build_model
from rlgym.ssl.models.weights import from_theirs, to_theirs

TOKENS, TIME = 100, 32
SHAPE: dict[str, Any] = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
CONFIGS: dict[str, Any] = {
    "gpt2": lambda **more: GPT2Model(**SHAPE, **{"block_size": TIME, **more}),
    "llama": lambda **more: LlamaModel(**SHAPE, num_key_value_heads=2, **{"block_size": TIME, **more}),
    "llama_untied": lambda **more: LlamaModel(
        **SHAPE, tie_word_embeddings=False, rope_theta=500.0, **{"block_size": TIME, **more}
    ),
    "qwen3": lambda **more: Qwen3Model(**SHAPE, num_key_value_heads=1, **{"block_size": TIME, **more}),
    "bert": lambda **more: BertModel(**SHAPE, **{"block_size": TIME, **more}),
    "modernbert": lambda **more: ModernBertModel(**SHAPE, local_attention=11, **{"block_size": TIME, **more}),
}
DECODERS = [name for name in CONFIGS if "bert" not in name]
EVERY = pytest.mark.parametrize("family", CONFIGS)


def build(family: str, **more: Any) -> Backbone:
    """A small model with every weight far from its initial value, biases and norms too."""
    model = build_model(CONFIGS[family](**more), TOKENS, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def theirs(model: Backbone) -> Any:
    """transformers' own module, from what the model exports."""
    import transformers

    config, state = model.to_transformers()
    assert config.architectures
    module = getattr(transformers, config.architectures[0])(config)
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= set(module.all_tied_weights_keys), "only what is tied may be left out"
    module.tie_weights()
    return module.eval()


def blocks(rows: int = 3, time: int = TIME) -> Tensor:
    return torch.randint(0, TOKENS, (rows, time), generator=torch.Generator().manual_seed(3))


def packed(rows: int = 3, time: int = TIME) -> tuple[Tensor, Tensor]:
    """Documents [rows, time], cut elsewhere in each row, and the place of each token in its own."""
    documents, places = torch.zeros(rows, time, dtype=torch.int32), torch.zeros(rows, time, dtype=torch.int64)
    for row in range(rows):
        start, document = 0, 10 * row
        for length in (5 + row, 1, 9, time):
            end = min(start + length, time)
            documents[row, start:end], places[row, start:end] = document, torch.arange(end - start)
            start, document = end, document + 1
    return documents, places


def their_mask(model: Backbone, documents: Tensor) -> Any:
    mask = (documents[:, :, None] == documents[:, None, :])[:, None]
    at = torch.arange(documents.shape[1])
    if model.causal:
        mask = mask & (at[:, None] >= at)
    if isinstance(model.config, ModernBertModel):
        near = (at[:, None] - at).abs() <= model.config.local_attention // 2
        return {"full_attention": mask, "sliding_attention": mask & near}
    return mask


# ---- the same as theirs


@EVERY
def test_logits_equal_theirs(family: str) -> None:
    model, tokens = build(family), blocks()
    other = theirs(model)
    with torch.no_grad():
        ours, expected = model.logits(model(tokens)), other(tokens).logits
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        short = model.logits(model(tokens[:, :7]))
        torch.testing.assert_close(short, other(tokens[:, :7]).logits, rtol=0, atol=1e-5)
    assert ours.shape == (3, TIME, model.vocab_size) and expected.std() > 0.1


@EVERY
def test_logits_of_packed_documents_equal_theirs(family: str) -> None:
    model, tokens = build(family), blocks()
    documents, places = packed()
    with torch.no_grad():
        ours = model.logits(model(tokens, documents))
        other = theirs(model)(tokens, position_ids=places, attention_mask=their_mask(model, documents)).logits
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)
        assert not torch.allclose(ours, model.logits(model(tokens)), atol=1e-3)


@EVERY
def test_gradients_equal_theirs(family: str) -> None:
    model, tokens = build(family), blocks()
    other = theirs(model)
    labels = blocks().roll(1, 0)
    for logits in (model.logits(model(tokens)), other(tokens).logits):
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    expected = {name: parameter.grad for name, parameter in other.named_parameters()}
    for name, gradient in to_theirs(model, model.weights()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("family", DECODERS)
def test_labels_are_shifted_once(family: str) -> None:
    model, tokens = build(family), blocks()
    with torch.no_grad():
        logits = model.logits(model(tokens))[:, :-1]
        ours = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        torch.testing.assert_close(ours, theirs(model)(tokens, labels=tokens).loss, rtol=1e-5, atol=1e-6)


@EVERY
def test_an_export_loads_by_name_and_comes_back(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    model, tokens = build(family), blocks()
    theirs(model).save_pretrained(tmp_path)
    auto: Any = AutoModelForCausalLM if model.causal else AutoModelForMaskedLM
    loaded = auto.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model.logits(model(tokens)), rtol=0, atol=1e-5)
    fresh = build_model(CONFIGS[family](), TOKENS, seed=7)
    fresh.load_transformers(loaded.state_dict())
    for (name, ours), again in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, again), name


@EVERY
def test_weights_of_another_shape_are_refused(family: str) -> None:
    model = build(family)
    _, state = model.to_transformers()
    deeper = build_model(CONFIGS[family](), TOKENS, 1)
    left_over = {**state, model.layers_prefix + "9.extra.weight": torch.zeros(2)}
    with pytest.raises(RequestError, match=r"no place for .*9\.extra"):
        deeper.load_transformers(left_over)
    name = next(iter(state))
    with pytest.raises(RequestError, match=f"lack {name}"):
        deeper.load_transformers({key: value for key, value in state.items() if key != name})
    with pytest.raises(RequestError, match="where the model has"):
        deeper.load_transformers(state | {name: torch.zeros(2, 2)})


@EVERY
def test_the_map_is_one_to_one(family: str) -> None:
    """Every parameter of theirs from one place of ours, none twice; and back to the same bits."""
    model = build(family)
    names = [name for weight in model.weights() for name in weight.theirs]
    assert len(names) == len(set(names))
    state = to_theirs(model, model.weights())
    assert sum(tensor.numel() for tensor in state.values()) == sum(p.numel() for p in model.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    from_theirs(model, model.weights(), state)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@EVERY
def test_tied_weights_are_held_once(family: str) -> None:
    model = build(family)
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert ("lm_head.weight" in state) is (family == "llama_untied")
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    with torch.no_grad():
        model.embedding().zero_()
    logits = model.logits(torch.randn(2, model.width, generator=torch.Generator().manual_seed(0)))
    same = logits.abs().max() if model.causal else (logits - logits[0]).abs().max()  # encoders' heads have a bias
    assert bool(same == 0) is (family != "llama_untied")


# ---- packed documents


@EVERY
@pytest.mark.parametrize("time", (TIME, 600))  # beyond what the kernels take in one piece
def test_documents_do_not_leak(family: str, time: int) -> None:
    """Another text in document A leaves B's logits, and the gradients of B's loss, equal to the last bit."""
    model = build(family, block_size=time)
    documents = (torch.arange(time) >= time * 2 // 3).long()[None]
    mine = documents[0] == 1
    found = []
    for seed in (1, 2):
        tokens = blocks(1, time)
        other = torch.randint(0, TOKENS, (1, time), generator=torch.Generator().manual_seed(seed))
        tokens = torch.where(mine, tokens, other)
        model.zero_grad()
        logits = model.logits(model(tokens, documents)[:, mine])
        F.cross_entropy(logits[0], tokens[0, mine].roll(1)).backward()
        # The rows of the embedding that only A looked up get an exact zero.
        found.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert found[0][0].isfinite().all()
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


@EVERY
def test_each_document_is_as_if_alone(family: str) -> None:
    model, tokens = build(family), blocks()
    documents, _ = packed()
    with torch.no_grad():
        together = model(tokens, documents)
        for row in range(len(tokens)):
            for document in documents[row].unique():
                part = documents[row] == document
                alone = model(tokens[row, part][None])[0]
                torch.testing.assert_close(together[row, part], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_no_token_sees_a_later_one(family: str) -> None:
    model, tokens = build(family), blocks()
    changed = tokens.clone()
    changed[:, 20] = (changed[:, 20] + 1) % TOKENS
    with torch.no_grad():
        for documents in (None, torch.zeros_like(tokens)):
            before, after = model(tokens, documents), model(changed, documents)
            torch.testing.assert_close(before[:, :20], after[:, :20], rtol=0, atol=1e-6)
            assert (before[:, 20:] - after[:, 20:]).abs().amax(-1).min() > 1e-4


# ---- the cache


@pytest.mark.parametrize("family", DECODERS)
def test_a_cache_changes_nothing(family: str) -> None:
    """In one go, token by token, and several at a time."""
    model, tokens = build(family), blocks()
    with torch.no_grad():
        expected = model(tokens)
        for cuts in ([TIME], [1] * TIME, [7, 1, 1, 5, 18]):
            cache = model.new_cache(len(tokens))
            assert cache is not None
            parts = [model(part, cache=cache) for part in tokens.split(cuts, 1)]
            torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=2e-5)
            assert cache.longest == TIME and cache.lengths.tolist() == [TIME] * len(tokens)


@pytest.mark.parametrize("family", DECODERS)
def test_rows_of_a_cache_have_lengths_of_their_own(family: str) -> None:
    model, tokens = build(family), blocks()
    lengths = [4, 9, 6]
    prompt = tokens[:, :9].clone()
    for row, length in enumerate(lengths):
        prompt[row, length:] = 0  # padding, never seen
    with torch.no_grad():
        cache = model.new_cache(3)
        assert cache is not None
        model(prompt, cache=cache)
        cache.set_lengths(lengths)
        for step in range(5):
            now = torch.stack([tokens[row, length + step] for row, length in enumerate(lengths)])
            hidden = model(now[:, None], cache=cache)[:, 0]
            for row, length in enumerate(lengths):
                alone = model(tokens[row : row + 1, : length + step + 1])[0, -1]
                torch.testing.assert_close(hidden[row], alone, rtol=0, atol=2e-5)


# ---- initial weights, dropout


@EVERY
def test_weights_are_drawn_from_the_seed_alone(family: str) -> None:
    state = torch.get_rng_state()
    a, b, c = (build_model(CONFIGS[family](), TOKENS, seed) for seed in (5, 5, 6))
    assert torch.equal(state, torch.get_rng_state())
    for (name, first), second, third in zip(a.named_parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(first, second), name
        assert first.ndim == 1 or not torch.equal(first, third), name


@EVERY
def test_weights_begin_as_published(family: str) -> None:
    model = build_model(CONFIGS[family](), TOKENS, 1)
    small = 0.02 / 8**0.5  # ways into the residual stream, 4 layers of two
    cut = 0.8796 if family == "modernbert" else 1.0  # what a cut at two deviations leaves of a normal's
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == float("norm" in name.lower() or ".ln_" in name) * ("bias" not in name)).all(), name
            continue
        outward = name.endswith(
            ("c_proj.weight", "o_proj.weight", "down_proj.weight", "Wo.weight", "head.dense.weight")
        )
        expected = cut * (small if outward else 0.02)
        assert float(parameter.detach().std()) == pytest.approx(expected, rel=6 / parameter.numel() ** 0.5), name


@EVERY
def test_dropout_acts_in_training_alone_and_is_exported(family: str) -> None:
    model, tokens = build(family, dropout=0.2), blocks()
    with torch.no_grad():
        assert torch.equal(model(tokens), build(family)(tokens))
        model.train()
        first, second = model(tokens), model(tokens)
    assert not torch.equal(first, second)
    config = model.to_transformers()[0].to_dict()
    shares = [config[key] for key in config if key.endswith(("dropout", "pdrop", "dropout_prob"))]
    assert shares.count(0.2) >= 1 and set(shares) <= {0.2, 0.0, None, 0.1}


@EVERY
def test_matrices_are_those_of_the_layers(family: str) -> None:
    """Their row blocks are the matrices that transformers keeps apart, and their own in size."""
    model = build(family)
    inside = model.matrices()
    layers = {name for name, p in model.named_parameters() if p.ndim == 2 and name.startswith(model.layers_prefix)}
    assert set(inside) == layers and len(layers) % 4 == 0
    for name, rows in inside.items():
        parameter = model.get_parameter(name)
        assert sum(rows) == parameter.shape[0]
        if "qkv" in name.lower() or "c_attn" in name:
            assert len(rows) == 3 and rows[0] == model.width


@pytest.mark.slow
@EVERY
def test_compiled_equals_eager(family: str) -> None:
    model, tokens = build(family), blocks()
    documents, _ = packed()
    compiled = torch.compile(model, dynamic=False, fullgraph=True)
    for inputs in ((tokens,), (tokens, documents)):
        torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
