"""What the comparisons with autograd (test_continuous.py, test_q_networks.py) would not show of the passes by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rlgym.agents.common import dense_compiled
from rlgym.agents.common.manual_backward import Memory, Network, linear_layers
from rlgym.optim.adam import FlatAdam


def test_tanh_to_float32s_precision() -> None:
    x = np.concatenate([np.linspace(-12, 12, 20_001), [0.0, 1e-30, -1e-8, 1e30, -np.inf, np.inf]]).astype(np.float32)
    found = np.array([dense_compiled.tanh(each) for each in x])
    np.testing.assert_allclose(found, np.tanh(x.astype(np.float64)), rtol=4e-7, atol=0)
    assert np.abs(found).max() <= 1 and np.isnan(dense_compiled.tanh(np.float32(np.nan)))


def network(activation: str, outputs: Memory, slopes: Memory) -> tuple[nn.Sequential, Network]:
    layers = nn.Sequential(nn.Linear(3, 24), nn.Linear(24, 40), nn.Linear(40, 2))
    gradients = FlatAdam(layers, 1.0, 1e-8).gradients
    return layers, Network(linear_layers(list(layers)), activation, 2, outputs, slopes, gradients=gradients)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_what_is_not_finite_stays_so(activation: str) -> None:
    """ReLU of NaN is NaN: a network that has burst must not look sound."""
    _, by_hand = network(activation, Memory(), Memory())
    x = np.zeros((4, 3), np.float32)
    x[2] = np.nan
    assert np.isnan(by_hand.forward(x)).all(1).tolist() == [False, False, True, False]


def test_networks_that_share_memory_take_turns_in_any_batch() -> None:
    """What one keeps of a pass is whole although another, or a larger batch, took the memory before."""
    torch.manual_seed(0)
    outputs, slopes = Memory(), Memory()
    both = [network("relu", outputs, slopes) for _ in range(2)]
    for rows in (5, 64, 7):
        for layers, by_hand in both:
            x = torch.randn(rows, 3, requires_grad=True)
            expected = layers[2](layers[1](layers[0](x).relu()).relu())
            of_outputs = torch.randn(rows, 2)
            layers.zero_grad(set_to_none=False)
            expected.backward(of_outputs)
            grads = [p.grad.clone() for p in layers.parameters() if p.grad is not None]
            np.testing.assert_allclose(by_hand.forward(x.detach().numpy()), expected.detach(), rtol=1e-4, atol=1e-6)
            down = by_hand.backward(of_outputs.numpy().copy(), further=True)
            assert x.grad is not None
            np.testing.assert_allclose(down, x.grad, rtol=1e-4, atol=1e-6)
            for parameter, grad in zip(layers.parameters(), grads, strict=True):
                torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5)
