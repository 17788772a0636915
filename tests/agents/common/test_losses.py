from __future__ import annotations

import math

import pytest
import torch

from rlgym.agents.common.losses import approximate_kl, clipped_surrogate, explained_variance, value_loss
from rlgym.training.schedules import factor


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 2.0, -2.4), (1.5, -2.0, 3.0), (0.5, 2.0, -1.0), (0.5, -2.0, 1.6), (1.1, 2.0, -2.2)],
)
def test_clipped_surrogate_by_hand(ratio: float, advantage: float, expected: float) -> None:
    loss, log_ratio = clipped_surrogate(torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]), 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert log_ratio.item() == pytest.approx(math.log(ratio), rel=1e-6)


def test_gradient_stops_where_the_ratio_is_clipped_in_the_advantages_favour() -> None:
    log_prob = torch.tensor([math.log(1.5), math.log(1.5)], requires_grad=True)
    loss, _ = clipped_surrogate(log_prob, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2)
    loss.sum().backward()
    assert log_prob.grad is not None
    assert log_prob.grad[0] == 0 and log_prob.grad[1] == pytest.approx(1.5)


def test_value_loss_takes_the_worse_of_plain_and_clipped() -> None:
    value, target, old = torch.tensor([3.0, 0.5]), torch.tensor([4.0, 0.0]), torch.tensor([1.0, 1.0])
    assert value_loss(value, target).tolist() == [1.0, 0.25]
    assert value_loss(value, target, old, 0.2).tolist() == pytest.approx([(1.2 - 4.0) ** 2, 0.8**2])


def test_approximate_kl_is_unbiased() -> None:
    """Its expectation under the old policy is the exact KL(old || new), enumerated over 8 actions."""
    torch.manual_seed(0)
    old, new = torch.randn(2, 8, dtype=torch.float64).log_softmax(-1)
    exact = (old.exp() * (old - new)).sum()
    per_action = torch.stack([approximate_kl((new - old)[i : i + 1]) for i in range(8)])
    assert (old.exp() * per_action).sum().item() == pytest.approx(exact.item(), rel=1e-9)
    assert (per_action >= 0).all()


def test_explained_variance() -> None:
    target = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(target, target) == 1
    assert explained_variance(torch.full((3,), 2.0), target) == 0
    assert explained_variance(target, torch.ones(3)).isnan()


def test_schedules() -> None:
    assert factor("constant", 50, 100) == 1
    assert [factor("linear", step, 100) for step in (0, 50, 100, 150)] == pytest.approx([1, 0.5, 0, 0])
