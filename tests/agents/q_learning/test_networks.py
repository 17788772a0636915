"""Networks of action values: what their parts mean, and that NumPy and the hand-written passes compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlgym.agents.q_learning.epsilon_greedy import EpsilonGreedy
from rlgym.agents.q_learning.gradient import ROWS_BY_HAND, Autograd, ByHand
from rlgym.agents.q_learning.networks import NoisyLinear, NumpyQ, QNetwork, QPolicy
from rlgym.envs.spaces import leaves
from rlgym.optim.adam import FlatAdam
from tests.agents.worlds import ACTIONS, OBSERVATIONS

SUPPORT = torch.linspace(-2.0, 4.0, 7)
PARTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"net_arch": []},
    "tanh": {"activation": "tanh"},
    "dueling": {"dueling": True},
    "dueling linear": {"dueling": True, "net_arch": []},
    "c51": {"support": SUPPORT},
    "qr": {"quantiles": 5},
    "dueling c51": {"dueling": True, "support": SUPPORT},
    "dueling qr tanh": {"dueling": True, "quantiles": 5, "activation": "tanh"},
}
NOISY: dict[str, dict[str, Any]] = {
    "noisy": {"noisy_std": 0.5},
    "rainbow": {"noisy_std": 0.5, "dueling": True, "support": SUPPORT},
}
NORMED: dict[str, dict[str, Any]] = {"layer_norm": {"layer_norm": True}}


def network(observation: str = "vector", seed: int = 0, **parts: Any) -> QNetwork:
    torch.manual_seed(seed)
    return QNetwork(leaves(OBSERVATIONS[observation]), 3, **{"net_arch": [12, 8], **parts})


def vectors(rows: int, seed: int = 0) -> dict[str, Tensor]:
    return {"obs": 2 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))}


# ---- dueling


@pytest.mark.parametrize("part", ["dueling", "dueling linear", "dueling qr tanh"])
def test_dueling_values_average_to_the_states_value(part: str) -> None:
    """Q = V + A - mean A: the mean over actions is V, and what all advantages share changes nothing."""
    q = network(**PARTS[part])
    obs = vectors(10)
    with torch.no_grad():
        before = q(obs)
        x = q.encoder(obs)
        for layer in q.hidden:
            x = q.activation(layer(x))
        half = x.shape[1] // 2 if q.hidden else x.shape[1]
        value = q.value(x[:, :half])  # type: ignore[misc]
        np.testing.assert_allclose(before.mean(1), value, atol=1e-5)
        q.advantage.bias.add_(7.0)
        np.testing.assert_allclose(q(obs), before, atol=1e-4)
        assert before.std(1).min() > 0


def test_expected_values() -> None:
    obs = vectors(10)
    with torch.no_grad():
        c51, qr, plain = network(support=SUPPORT), network(quantiles=5), network()
        p = torch.softmax(c51(obs), -1)
        np.testing.assert_allclose(c51.policy(obs), (p * SUPPORT).sum(-1), atol=1e-5)
        np.testing.assert_allclose(qr.policy(obs), qr(obs).mean(-1), atol=1e-6)
        assert plain(obs).shape == (10, 3, 1) and plain.policy(obs).shape == (10, 3)


# ---- noise


def test_noise_is_factorised_and_drawn_anew() -> None:
    layer, generator = NoisyLinear(50, 40, std=0.5), torch.Generator().manual_seed(0)
    x = torch.randn(7, 50)
    with torch.no_grad():
        noise = layer.draw(generator)
        inputs, outputs = noise
        weight = layer.weight + layer.weight_std * (outputs[:, None] * inputs[None, :])
        bias = layer.bias + layer.bias_std * outputs
        np.testing.assert_allclose(layer.noisy(x, noise), x @ weight.T + bias, atol=1e-5)
        np.testing.assert_allclose(layer(x), x @ layer.weight.T + layer.bias, atol=1e-5)
        assert (layer.draw(generator)[0] != inputs).all()
        np.testing.assert_allclose(layer.weight_std, 0.5 / np.sqrt(50), rtol=1e-6)
        many = torch.cat([torch.cat(layer.draw(generator)) for _ in range(500)])
        # f(x) = sign(x) sqrt|x| of a standard normal: mean 0, second moment E|x|
        assert abs(many.mean()) < 0.01 and abs(many.square().mean() - np.sqrt(2 / np.pi)) < 0.01


@pytest.mark.parametrize("part", NOISY)
def test_a_noisy_policy_explores_by_noise_and_is_evaluated_without(part: str) -> None:
    q = network(**NOISY[part])
    space = ACTIONS["discrete"]
    policy = QPolicy(q, EpsilonGreedy(3, 0.0), space)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    obs = {"obs": vectors(6)["obs"].numpy()}
    first, second = (policy.noisy_outputs(obs, None, rng, generator) for _ in range(2))
    assert (first != second).all()
    assert (policy.outputs(obs, None) == policy.outputs(obs, None)).all(), "evaluated by mean weights"
    with torch.no_grad():
        np.testing.assert_allclose(policy.outputs(obs, None), q.policy(vectors(6)), atol=1e-5)
    # NumPy's noise, one for each environment, is torch's in distribution.
    same = {"obs": np.repeat(obs["obs"][:1], 4000, 0)}
    mine = policy.noisy_outputs(same, None, rng, generator)
    policy.numpy_actor = None
    one = {"obs": obs["obs"][:1]}
    theirs = np.concatenate([policy.noisy_outputs(one, None, rng, generator) for _ in range(4000)])
    np.testing.assert_allclose(mine.mean(0), theirs.mean(0), atol=0.05)
    np.testing.assert_allclose(mine.std(0), theirs.std(0), rtol=0.1)
    assert mine.std(0).min() > 0.05


# ---- in NumPy


@pytest.mark.parametrize("part", PARTS | NOISY | NORMED)
@pytest.mark.parametrize("observation", ["vector", "dict", "discrete"])
def test_numpy_equals_torch(part: str, observation: str) -> None:
    q = network(observation, **(PARTS | NOISY | NORMED)[part], normalize=True)
    space = OBSERVATIONS[observation]
    rng = np.random.default_rng(0)
    obs: dict[str, Any] = {}
    for leaf in leaves(space):
        if leaf.kind == "onehot":
            obs[leaf.name] = rng.integers(0, leaf.nvec, (5, *leaf.shape))
        else:
            obs[leaf.name] = rng.standard_normal((5, *leaf.shape)).astype(np.float32)
    with torch.no_grad():
        for parameter in q.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        tensors = {name: torch.from_numpy(x) for name, x in obs.items()}
        q.encoder.observe(tensors)
        found = NumpyQ(q)(obs)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, q.policy(tensors), rtol=1e-4, atol=1e-5)


# ---- by hand


@pytest.mark.parametrize("part", PARTS)
def test_gradients_by_hand_equal_autograds(part: str) -> None:
    one, other = network(**PARTS[part]), network(**PARTS[part])
    theirs = Autograd(one, FlatAdam(one, 1.0, 1e-8).gradients, compiled=False)
    FlatAdam(other, 1.0, 1e-8)
    ours = ByHand(other)
    for rows in (9, 4, 9):
        obs, slope = vectors(rows, rows), torch.randn(rows, 3, one.atoms)
        with torch.no_grad():
            for mine, other_ones in zip(ours.split(obs, rows), theirs.split(obs, rows), strict=True):
                np.testing.assert_allclose(ours.forward(mine, None), theirs.forward(other_ones, None), atol=1e-5)
            ours.backward(slope)
            theirs.backward(slope)
        for (name, p), p2 in zip(one.named_parameters(), other.parameters(), strict=True):
            assert p.grad is not None and p2.grad is not None
            assert p.grad.abs().sum() > 0
            np.testing.assert_allclose(p2.grad, p.grad, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("part", ["plain", "dueling c51"])
def test_many_rows_by_hand(part: str) -> None:
    """More than are taken at once, the last of them fewer."""
    q = network(**PARTS[part])
    FlatAdam(q, 1.0, 1e-8)
    obs = vectors(2 * ROWS_BY_HAND + 3)
    with torch.no_grad():
        np.testing.assert_allclose(ByHand(q).values_of(obs), q(obs), atol=1e-5)


def test_images_go_through_autograd() -> None:
    q = network("image_hwc", net_arch=[])
    passes = Autograd(q, FlatAdam(q, 1.0, 1e-8).gradients, compiled=False)
    obs = {"obs": torch.randint(0, 255, (2, 84, 84, 3), dtype=torch.uint8)}
    with torch.no_grad():
        passes.backward(passes.forward(obs, None))  # of 1/2 output^2
    found = {name: p.grad.clone() for name, p in q.named_parameters() if p.grad is not None}
    q.zero_grad()
    (0.5 * q(obs).square().sum()).backward()
    for name, p in q.named_parameters():
        torch.testing.assert_close(p.grad, found[name])
    assert isinstance(q.activation, nn.ReLU)
