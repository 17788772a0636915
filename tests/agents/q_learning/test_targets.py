"""Targets and losses of Q-learning against brute force, closed forms and autograd; acting by values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.agents.common.distributions import MASKED
from rlgym.agents.q_learning.epsilon_greedy import EpsilonGreedy, annealed_epsilon
from rlgym.agents.q_learning.targets import cross_entropy, discounted, huber, of_actions, project, quantile_huber


def some(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- the projection of C51 (trap 14)


def projected_by_hand(p: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> np.ndarray:
    """Atom by atom, each mass to the neighbours in proportion to their nearness."""
    low, high, atoms = float(support[0]), float(support[-1]), len(support)
    step = (high - low) / (atoms - 1)
    out = np.zeros(p.shape)
    for row in range(len(p)):
        for j in range(atoms):
            z = min(max(float(reward[row]) + float(discount[row]) * float(support[j]), low), high)
            for i in range(atoms):
                out[row, i] += max(0.0, 1 - abs(z - float(support[i])) / step) * float(p[row, j])
    return out


@pytest.mark.parametrize("atoms", [2, 11, 51])
def test_projection_equals_brute_force(atoms: int) -> None:
    support = torch.linspace(-3.0, 5.0, atoms)
    p = some(40, atoms, scale=2.0).softmax(-1)
    reward = some(40, seed=1, scale=3.0)  # some fall off either edge
    discount = torch.where(torch.arange(40) % 4 == 0, 0.0, 0.97)
    found = project(p, reward, discount, support)
    np.testing.assert_allclose(found, projected_by_hand(p, reward, discount, support), atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert (found >= 0).all()


def test_projection_keeps_the_mean_inside_the_support() -> None:
    support = torch.linspace(-10.0, 10.0, 51)
    p = some(100, 51, scale=3.0).softmax(-1)
    reward, discount = some(100, seed=1).clamp(-1, 1), torch.full((100,), 0.9)
    found = project(p, reward, discount, support)
    np.testing.assert_allclose(found @ support, reward + discount * (p @ support), atol=1e-4)


def test_projection_of_what_falls_on_atoms_and_off_the_edges() -> None:
    support = torch.linspace(-1.0, 1.0, 3)
    p = torch.tensor([[0.2, 0.3, 0.5]]).expand(5, 3)
    reward = torch.tensor([0.0, 1.0, -9.0, 9.0, 0.5])
    discount = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    expected: Any = [[0.2, 0.3, 0.5], [0.0, 0.2, 0.8], [1, 0, 0], [0, 0, 1], [0, 0.5, 0.5]]
    np.testing.assert_allclose(project(p, reward, discount, support), expected, atol=1e-6)


# ---- losses, and the derivatives that they give


def check_derivative(loss_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, target: Tensor) -> None:
    x = x.requires_grad_()
    loss, slope = loss_of(x, target)
    (expected,) = torch.autograd.grad(loss.sum(), x)
    np.testing.assert_allclose(slope.detach(), expected, atol=1e-5)


def test_huber() -> None:
    prediction, target = some(50, 1, scale=2.0), some(50, 1, seed=1)
    loss, _ = huber(prediction, target)
    np.testing.assert_allclose(loss, F.huber_loss(prediction, target, reduction="none").squeeze(-1), atol=1e-6)
    assert ((prediction - target).abs() > 1).any() and ((prediction - target).abs() < 1).any()
    check_derivative(huber, prediction, target)


def test_shapes_that_would_broadcast_are_refused() -> None:
    """(B,) against (B, 1) would silently make (B, B) (trap 11)."""
    with pytest.raises(AssertionError):
        huber(some(8, 1), some(8))
    with pytest.raises(AssertionError):
        huber(some(8), some(8))
    with pytest.raises(AssertionError):
        discounted(some(8, 1), some(8, 1), some(8))
    with pytest.raises(AssertionError):
        project(some(8, 5).softmax(-1), some(8, 1), some(8), torch.linspace(0, 1, 5))
    assert discounted(some(8, 3), some(8), some(8)).shape == (8, 3)


def test_cross_entropy() -> None:
    logits, target = some(30, 7, scale=2.0), some(30, 7, seed=1).softmax(-1)
    loss, _ = cross_entropy(logits, target)
    np.testing.assert_allclose(loss, F.cross_entropy(logits, target, reduction="none"), atol=1e-5)
    check_derivative(cross_entropy, logits, target)


def test_quantile_huber_equals_a_double_loop() -> None:
    n, m, rows = 4, 6, 9
    prediction, target = some(rows, n, scale=2.0), some(rows, m, seed=1, scale=2.0)
    expected = np.zeros(rows)
    for row in range(rows):
        for i in range(n):
            level = (2 * i + 1) / (2 * n)
            for j in range(m):
                u = float(target[row, j] - prediction[row, i])
                size = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                expected[row] += abs(level - (u < 0)) * size / m
    loss, _ = quantile_huber(prediction, target)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    check_derivative(quantile_huber, prediction, target)


def test_quantile_huber_is_least_at_the_quantiles() -> None:
    """Of many samples of a wide normal distribution, against which the Huber part is narrow."""
    sample = 100 * some(1, 5_001)
    quantiles = torch.zeros(1, 5)
    for step in range(3000):
        _, slope = quantile_huber(quantiles, sample)
        quantiles = quantiles - (50 if step < 2000 else 5) * slope
    expected = torch.quantile(sample, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    np.testing.assert_allclose(quantiles[0], expected, atol=2.0)


def test_of_actions() -> None:
    outputs, action = some(20, 4, 3), torch.randint(4, (20,), generator=torch.Generator().manual_seed(0))
    found = of_actions(outputs, action)
    for row in range(20):
        assert torch.equal(found[row], outputs[row, action[row]])


# ---- acting by values


@pytest.mark.parametrize("numpy", [False, True])
def test_epsilon_greedy_frequencies(numpy: bool) -> None:
    """Every legal action by chance with epsilon / n, the best one besides; its log-probability says the same."""
    rows, epsilon = 60_000, 0.3
    distribution = EpsilonGreedy(4, epsilon)
    outputs = torch.tensor([-3.0, MASKED, -1.0, -2.0]).repeat(rows, 1)
    if numpy:
        drawn = distribution.sample_numpy(outputs.numpy(), np.random.default_rng(0))
        best = distribution.sample_numpy(outputs.numpy(), None)
    else:
        drawn = distribution.sample(outputs, torch.Generator().manual_seed(0)).numpy()
        best = distribution.sample(outputs, None).numpy()
    assert (best == 2).all()
    share = np.bincount(drawn, minlength=4) / rows
    np.testing.assert_allclose(share, [0.1, 0, 0.8, 0.1], atol=0.01)
    assert share[1] == 0, "never an illegal one"
    log_p, entropy = distribution.log_prob_entropy(outputs[:3], torch.tensor([0, 2, 3]))
    np.testing.assert_allclose(log_p.exp(), [0.1, 0.8, 0.1], rtol=1e-5)
    np.testing.assert_allclose(entropy, -(0.2 * math.log(0.1) + 0.8 * math.log(0.8)), rtol=1e-5)


def test_epsilon_comes_down_along_a_line() -> None:
    found = [annealed_epsilon(1.0, 0.1, 0.2, step, 1000) for step in (0, 50, 100, 200, 999, 5000)]
    np.testing.assert_allclose(found, [1.0, 0.775, 0.55, 0.1, 0.1, 0.1])
    assert annealed_epsilon(1.0, 0.1, 0.0, 0, 1000) == 0.1
