"""The hand-written forward and backward passes against torch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.ssl.models.fused import attention, gelu, rms_norm, swiglu
from rlgym.ssl.models.rope import rope_tables, rotate


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], None, 1e-6) * weight


def plain_swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


@pytest.mark.parametrize(
    ("ours", "theirs", "shapes"),
    [
        (lambda x, w: rms_norm(x, w, 1e-6), plain_norm, [(3, 5, 16), (16,)]),
        (lambda x, w: rms_norm(x, w, 1e-6), plain_norm, [(2, 5, 4, 8), (4, 8)]),
        (swiglu, plain_swiglu, [(3, 5, 24)]),
        (gelu, F.gelu, [(3, 5, 24)]),
    ],
)
def test_values_and_gradients_equal_torchs(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    results = []
    for function in (ours, theirs):
        inputs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
        out = function(*inputs)
        out.backward(random(*out.shape, seed=9).detach())
        results.append([out.detach(), *(x.grad for x in inputs)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_parts_of_a_larger_tensor_do_as_well() -> None:
    """Queries and keys are a slice of the fused projection."""
    whole = random(2, 3, 6, 8)
    weight = random(4, 8, seed=1)
    torch.testing.assert_close(rms_norm(whole[:, :, :4], weight, 1e-6), plain_norm(whole[:, :, :4], weight))


def test_under_autocast_the_type_is_torchs() -> None:
    x, weight = random(4, 16), random(16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        for tensor in (x, x.bfloat16()):
            assert rms_norm(tensor, weight, 1e-6).dtype == F.rms_norm(tensor, (16,), weight, 1e-6).dtype
        assert swiglu(x.bfloat16()).dtype == torch.bfloat16


def ours(qkv: Tensor, heads: int, mask: Tensor | None, causal: bool) -> Tensor:
    """Of `[batch, time, heads + 2 groups, head_dim]`: queries, keys and values side by side."""
    query, key, value = (x.transpose(1, 2) for x in qkv.tensor_split([heads, (heads + qkv.shape[2]) // 2], 2))
    return attention(query, key, value, mask, causal)


def torchs(qkv: Tensor, heads: int, mask: Tensor | None, causal: bool) -> Tensor:
    query, key, value = (x.transpose(1, 2) for x in qkv.tensor_split([heads, (heads + qkv.shape[2]) // 2], 2))
    mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, enable_gqa=True)
    return mixed.transpose(1, 2).flatten(2)


DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 2, 2]])
MASK = (DOCUMENTS[:, :, None] == DOCUMENTS[:, None])[:, None]


@pytest.mark.parametrize(("mask", "causal"), [(None, True), (None, False), (MASK, False)])
@pytest.mark.parametrize("heads", [4, 6])
def test_attention_equals_torchs(heads: int, mask: Tensor | None, causal: bool) -> None:
    """Of 12 heads four are queries', with a key each, or six, two for each key."""
    results = []
    for function in (ours, torchs):
        qkv = random(2, 7, 12, 8)
        out = function(qkv, heads, mask, causal)
        out.backward(random(*out.shape, seed=9).detach())
        assert qkv.grad is not None
        results.append((out.detach(), qkv.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, MASK])
def test_attention_in_bf16_is_as_near_the_truth_as_torchs(mask: Tensor | None) -> None:
    """Rounded scores would be weights wrong by percents: here they reach tens."""
    values = (4 * random(2, 7, 12, 8).detach()).bfloat16()
    along = random(2, 7, 32, seed=9).detach()

    def passes(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        x = values.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = function(x, 4, mask, mask is None)
        out.backward(along.to(dtype))
        assert x.grad is not None and out.dtype == x.grad.dtype == dtype
        return [out.detach().double(), x.grad.double()]

    truth, found = passes(torchs, torch.float64), passes(ours, torch.bfloat16)
    for mine, theirs, right in zip(found, passes(torchs, torch.bfloat16), truth, strict=True):
        assert (mine - right).norm() < max(1.5 * float((theirs - right).norm()), 0.004 * float(right.norm()))


def test_rotation_by_complex_numbers() -> None:
    x = random(2, 7, 3, 8).detach()
    cos, sin = rope_tables(7, 8, 100.0)
    turned = rotate(x, cos[:, None], sin[:, None])
    for pair in range(4):
        angle = torch.arange(7) * 100.0 ** (-2 * pair / 8)
        expected = torch.complex(x[..., pair], x[..., pair + 4]) * torch.exp(1j * angle)[:, None]
        torch.testing.assert_close(
            torch.complex(turned[..., pair], turned[..., pair + 4]), expected.to(torch.complex64)
        )


def test_rotation_keeps_products_at_equal_distance() -> None:
    query, key = random(1, 1, 1, 16).detach(), random(1, 1, 1, 16, seed=1).detach()
    cos, sin = rope_tables(40, 16, 10_000.0)
    q, k = (rotate(x.expand(1, 40, 1, 16), cos[:, None], sin[:, None])[0, :, 0] for x in (query, key))
    products = q @ k.T
    for distance in (0, 3, 11):
        line = products.diagonal(-distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), rtol=1e-4, atol=1e-4)
