"""Distributions against torch's own, against numerical integration and against sampling frequencies."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal

from rlgym.agents.common.distributions import (
    MASKED,
    Categorical,
    Gaussian,
    MultiCategorical,
    SquashedGaussian,
    distribution_for,
    mask_logits,
)
from rlgym.errors import RequestError


def test_categorical_equals_torch() -> None:
    logits, action = torch.randn(6, 5), torch.randint(5, (6,))
    log_prob, entropy = Categorical(5).log_prob_entropy(logits, action)
    reference = TorchCategorical(logits=logits)
    torch.testing.assert_close(log_prob, reference.log_prob(action))
    torch.testing.assert_close(entropy, reference.entropy())


def test_multicategorical_is_the_sum_of_its_parts() -> None:
    logits, action = torch.randn(6, 5), torch.stack([torch.randint(2, (6,)), torch.randint(3, (6,))], -1)
    log_prob, entropy = MultiCategorical((2, 3)).log_prob_entropy(logits, action)
    parts = [TorchCategorical(logits=logits[:, :2]), TorchCategorical(logits=logits[:, 2:])]
    torch.testing.assert_close(log_prob, parts[0].log_prob(action[:, 0]) + parts[1].log_prob(action[:, 1]))
    torch.testing.assert_close(entropy, parts[0].entropy() + parts[1].entropy())


def test_gaussian_equals_torch() -> None:
    outputs, action = torch.randn(6, 4), torch.randn(6, 2)
    log_prob, entropy = Gaussian((2,)).log_prob_entropy(outputs, action)
    reference = Normal(outputs[:, :2], outputs[:, 2:].exp())
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1))
    torch.testing.assert_close(entropy, reference.entropy().sum(-1))


@pytest.mark.parametrize("mean,log_std", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5)])
def test_squashed_density_integrates_to_one_and_is_finite_at_the_edges(mean: float, log_std: float) -> None:
    """Trap 15."""
    action = torch.linspace(-7.2, 7.2, 100_001, dtype=torch.float64).tanh()[:, None]  # dense where the density is steep
    outputs = torch.tensor([[mean, log_std]], dtype=torch.float64).expand(len(action), 2)
    density = SquashedGaussian((1,)).log_prob_entropy(outputs, action)[0].exp()
    assert torch.trapezoid(density, action[:, 0]).item() == pytest.approx(1, abs=1e-3)
    edges = torch.tensor([[-1.0], [1.0]])
    log_prob, _ = SquashedGaussian((1,)).log_prob_entropy(outputs[:2].float(), edges)
    assert log_prob.isfinite().all()


@pytest.mark.parametrize("which", ["numpy", "torch"])
def test_samples_follow_the_probabilities(which: str) -> None:
    logits = torch.tensor([0.5, -1.0, 1.5, MASKED])
    n = 40_000
    if which == "numpy":
        drawn = Categorical(4).sample_numpy(np.tile(logits.numpy(), (n, 1)), np.random.default_rng(0))
    else:
        drawn = Categorical(4).sample(logits.expand(n, 4), torch.Generator().manual_seed(0)).numpy()
    frequency = np.bincount(drawn, minlength=4) / n
    p = logits.softmax(-1).numpy()
    assert frequency[3] == 0, "an illegal action was drawn"
    assert np.all(np.abs(frequency - p) <= 4 * np.sqrt(p * (1 - p) / n) + 1e-9)


@pytest.mark.parametrize("which", ["numpy", "torch"])
def test_gaussian_samples_have_the_moments(which: str) -> None:
    outputs = torch.tensor([1.0, -2.0, 0.0, -1.0]).expand(40_000, 4)
    if which == "numpy":
        drawn = Gaussian((2,)).sample_numpy(outputs.numpy(), np.random.default_rng(0))
    else:
        drawn = Gaussian((2,)).sample(outputs, torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(drawn.mean(0), [1, -2], atol=0.03)
    np.testing.assert_allclose(drawn.std(0), [1, np.exp(-1)], rtol=0.02)


def test_modes_without_a_generator() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.0]])
    assert Categorical(3).sample(logits, None).tolist() == [1]
    assert MultiCategorical((2, 1)).sample(logits, None).tolist() == [[1, 0]]
    assert Gaussian((1,)).sample(torch.tensor([[0.3, 5.0]]), None).tolist() == [[pytest.approx(0.3)]]


def test_masked_actions_have_no_probability_and_entropy_stays_finite() -> None:
    logits = mask_logits(torch.zeros(1, 4), torch.tensor([[True, False, True, False]]))
    log_prob, entropy = Categorical(4).log_prob_entropy(logits, torch.tensor([0]))
    assert log_prob.exp().item() == pytest.approx(0.5)
    assert entropy.item() == pytest.approx(np.log(2), rel=1e-6)


def test_which_distribution_for_which_space() -> None:
    spaces = gym.spaces
    assert isinstance(distribution_for(spaces.Discrete(3), "ppo"), Categorical)
    assert distribution_for(spaces.MultiBinary(3), "ppo").outputs == 6
    assert distribution_for(spaces.MultiDiscrete([2, 5]), "ppo").outputs == 7
    assert type(distribution_for(spaces.Box(-1, 1, (2,)), "ppo")) is Gaussian
    assert type(distribution_for(spaces.Box(-1, 1, (2,)), "ppo", squash=True)) is SquashedGaussian
    with pytest.raises(RequestError, match=r"agent=ppo cannot act in Text"):
        distribution_for(spaces.Text(4), "ppo")
    with pytest.raises(RequestError, match=r"agent.squash"):
        distribution_for(spaces.Box(-np.inf, np.inf, (2,)), "ppo", squash=True)
