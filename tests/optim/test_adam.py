"""The flat optimiser against torch's Adam and clipping, and its refusal of non-finite steps."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rlgym.optim.adam import FlatAdam


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def loss_of(module: nn.Module, x: Tensor) -> Tensor:
    loss: Tensor = (module(x) * 5).square().sum()
    return loss


def test_equals_torch_adam_with_clipping() -> None:
    ours, theirs = network(), network()
    flat = FlatAdam(ours, max_grad_norm=0.5, eps=1e-5)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2, eps=1e-5)
    for step in range(20):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        norm, skipped = flat.step(loss_of(ours, x), 1e-2)
        adam.zero_grad()
        loss_of(theirs, x).backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        adam.step()
        torch.testing.assert_close(norm, expected)
        assert skipped == 0
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_non_finite_step_changes_nothing_and_is_counted() -> None:
    module = network()
    flat = FlatAdam(module, 0.5, 1e-5)
    flat.step(loss_of(module, torch.randn(4, 3)), 1e-2)
    before = copy.deepcopy((module.state_dict(), dict(flat.state_dict())))
    for poison in (float("nan"), float("inf")):
        _, skipped = flat.step(loss_of(module, torch.full((4, 3), poison)), 1e-2)
        assert skipped == 1
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[0][name])
    for name, tensor in flat.state_dict().items():
        assert torch.equal(tensor, before[1][name]), name
    _, skipped = flat.step(loss_of(module, torch.randn(4, 3)), 1e-2)
    assert skipped == 0


def test_state_round_trip_continues_bit_for_bit() -> None:
    first, second = network(), network()
    a, b = FlatAdam(first, 0.5, 1e-5), FlatAdam(second, 0.5, 1e-5)
    batches = [torch.randn(4, 3) for _ in range(6)]
    for x in batches[:3]:
        a.step(loss_of(first, x), 1e-2)
    second.load_state_dict(first.state_dict())
    b.load_state_dict({name: tensor.clone() for name, tensor in a.state_dict().items()})
    for x in batches[3:]:
        a.step(loss_of(first, x), 1e-2)
        b.step(loss_of(second, x), 1e-2)
    assert torch.equal(a.parameters, b.parameters) and torch.equal(a.second, b.second)
