"""What is SAC's own: its distribution, its critics, its entropy coefficient, and Stable-Baselines3's step beside it."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC as Theirs
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rlgym.agents.common.distributions import ClampedGaussian
from rlgym.agents.common.squashed_compiled import SquashedByHand
from rlgym.agents.configs.continuous import SACConfig
from rlgym.agents.off_policy.critics import Critics
from rlgym.envs.spaces import leaves
from rlgym.optim.adam import FlatAdam
from tests.agents.levers import alone, learner, random_batch
from tests.agents.worlds import BOX

# ---- the distribution (trap 15)


@pytest.mark.parametrize("mean,log_std", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5), (1.0, 1.0)])
def test_drawn_densities_integrate_to_one(mean: float, log_std: float) -> None:
    noise = torch.linspace(-9, 9, 200_001, dtype=torch.float64)[:, None]
    outputs = torch.tensor([[mean, log_std]], dtype=torch.float64).expand(len(noise), 2)
    action, log_prob = ClampedGaussian((1,)).draw(outputs, noise)
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1, abs=1e-3)


def test_draws_equal_torchs_own_and_carry_gradients() -> None:
    torch.manual_seed(0)
    outputs = (0.6 * torch.randn(50, 6, dtype=torch.float64)).requires_grad_()  # far from the clamp
    noise, weight = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    distribution = ClampedGaussian((3,))
    action, log_prob = distribution.draw(outputs, noise)
    ours = torch.autograd.grad((action.sum(1) * weight + log_prob).sum(), outputs)[0]
    mean, log_std = outputs.chunk(2, -1)
    reference = TransformedDistribution(
        Independent(Normal(mean, log_std.exp()), 1), [TanhTransform(cache_size=1)], validate_args=False
    )
    their_action = (mean + log_std.exp() * noise).tanh()
    u = mean + log_std.exp() * noise
    their_log_prob = Normal(mean, log_std.exp()).log_prob(u).sum(1) - torch.log1p(-(u.tanh() ** 2)).sum(1)
    torch.testing.assert_close(action, their_action)
    torch.testing.assert_close(log_prob, their_log_prob)
    torch.testing.assert_close(log_prob, reference.log_prob(their_action), rtol=1e-5, atol=1e-5)
    theirs = torch.autograd.grad((their_action.sum(1) * weight + their_log_prob).sum(), outputs)[0]
    torch.testing.assert_close(ours, theirs)
    given, _ = distribution.log_prob_entropy(outputs, action)
    inside = (u.abs() < 5).all(1)  # an action alone does not tell how far beyond it was
    torch.testing.assert_close(given[inside], log_prob[inside], rtol=1e-4, atol=1e-4)


def test_the_slope_of_draws_is_autograds() -> None:
    """With log deviations within the clamp, on its bounds and beyond them, and up to where actions reach the edge."""
    torch.manual_seed(0)
    distribution = ClampedGaussian((3,))
    outputs = torch.randn(60, 6, dtype=torch.float64)
    outputs[:20] *= 20
    outputs[20:22, 3:] = torch.tensor([distribution.LOG_STD]).T.double()
    outputs.requires_grad_()
    noise, of_action = torch.randn(2, 60, 3, dtype=torch.float64)
    of_log_prob = torch.tensor(-0.3, dtype=torch.float64)
    action, log_prob = distribution.draw(outputs, noise)
    (theirs,) = torch.autograd.grad((action * of_action).sum() + of_log_prob * log_prob.sum(), outputs)
    ours = distribution.draw_slope(outputs.detach(), noise, action.detach(), of_action, of_log_prob)
    torch.testing.assert_close(ours, theirs)
    assert (action.abs() == 1).any() and (ours[:20, 3:] == 0).any()


def test_draws_in_machine_code_are_torchs() -> None:
    torch.manual_seed(0)
    distribution, by_hand = ClampedGaussian((3,)), SquashedByHand()
    outputs = torch.randn(60, 6)
    outputs[:20] *= 20
    outputs[20:22, 3:] = torch.tensor([distribution.LOG_STD]).T
    noise, of_action = torch.randn(2, 60, 3)
    drawn, expected = by_hand.draw(outputs, noise), distribution.draw(outputs, noise)
    torch.testing.assert_close(drawn, expected)
    given = outputs, noise, drawn[0], of_action, torch.tensor(-0.3)
    torch.testing.assert_close(by_hand.draw_slope(*given), distribution.draw_slope(*given), rtol=1e-5, atol=1e-6)
    outputs[5] = math.nan
    assert by_hand.draw(outputs, noise)[1].isnan().tolist() == [row == 5 for row in range(60)]


def test_finite_where_the_action_has_reached_the_edge() -> None:
    outputs = torch.tensor([[30.0, 0.0], [-30.0, 0.0], [0.0, 80.0], [0.0, -80.0]], requires_grad=True)
    action, log_prob = ClampedGaussian((1,)).draw(outputs, torch.full((4, 1), 20.0))
    assert action[:3, 0].tolist() == [1, -1, 1]
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert outputs.grad is not None and outputs.grad.isfinite().all()
    edges, _ = ClampedGaussian((1,)).log_prob_entropy(outputs[:2], torch.tensor([[1.0], [-1.0]]))
    assert edges.isfinite().all()


@pytest.mark.parametrize("which", ["numpy", "torch", "draw"])
def test_samples_have_the_clamped_deviation(which: str) -> None:
    distribution = ClampedGaussian((2,))
    outputs = torch.tensor([0.0, 0.2, -50.0, -2.0]).repeat(20_000, 1)
    if which == "numpy":
        drawn = distribution.sample_numpy(outputs.numpy(), np.random.default_rng(0))
    elif which == "torch":
        drawn = distribution.sample(outputs, torch.Generator().manual_seed(0)).numpy()
    else:
        noise = torch.randn((20_000, 2), generator=torch.Generator().manual_seed(0))
        drawn = distribution.draw(outputs, noise)[0].numpy()
    assert np.abs(drawn[:, 0]).max() < 1e-7
    np.testing.assert_allclose(np.arctanh(drawn[:, 1]).mean(), 0.2, atol=0.005)
    np.testing.assert_allclose(np.arctanh(drawn[:, 1]).std(), math.exp(-2), rtol=0.02)
    wide = torch.tensor([[0.0, 9.0]]).repeat(20_000, 1)
    reached = ClampedGaussian((1,)).sample(wide, torch.Generator().manual_seed(0)).numpy()[:, 0]
    within = np.abs(reached) < math.tanh(2)
    assert within.mean() == pytest.approx(math.erf(2 / math.exp(2) / math.sqrt(2)), abs=0.02), "deviation e^2, not e^9"


def test_the_outputs_are_left_as_they_were() -> None:
    """They may lie in a buffer of the NumPy actor."""
    outputs = np.array([[0.5, 9.0]], np.float32)
    for generator in (None, np.random.default_rng(0)):
        ClampedGaussian((1,)).sample_numpy(outputs, generator)
    assert outputs.tolist() == [[0.5, 9.0]]


# ---- critics as one batched network


@pytest.mark.parametrize("critics", [1, 2, 5])
@pytest.mark.parametrize("widths,activation", [([16, 8], "relu"), ([12], "tanh"), ([], "relu")])
def test_batched_critics_equal_separate_networks(critics: int, widths: list[int], activation: str) -> None:
    torch.manual_seed(0)
    batched = Critics(leaves(BOX), 2, widths, activation, critics)
    separate = [alone(batched, which) for which in range(critics)]
    adam = FlatAdam(batched, math.inf, 1e-8)
    obs, action = torch.randn(20, 3), torch.randn(20, 2)
    q = batched({"obs": obs}, action)
    assert q.shape == (critics, 20)
    x = torch.cat([obs, action], 1).double()
    expected = torch.stack([network(x).squeeze(1) for network in separate])
    torch.testing.assert_close(q.double(), expected, rtol=1e-4, atol=1e-5)
    assert len({round(float(row[0]), 6) for row in expected.detach()}) == critics, "they begin apart"
    torch.testing.assert_close(batched({"obs": obs}, action, first=1), q[:1])
    weight = torch.randn(critics, 20)
    adam.flat.zero()
    (q * weight).sum().backward()
    (expected * weight).sum().backward()
    for which, network in enumerate(separate):
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        for i, layer in enumerate(linear):
            assert layer.weight.grad is not None and batched.weights[i].grad is not None
            torch.testing.assert_close(
                batched.weights[i].grad[which].T.double(), layer.weight.grad, rtol=1e-3, atol=1e-4
            )
            assert layer.bias.grad is not None and batched.biases[i].grad is not None
            torch.testing.assert_close(batched.biases[i].grad[which, 0].double(), layer.bias.grad, rtol=1e-3, atol=1e-4)


# ---- the entropy coefficient


def test_its_gradient_by_closed_form() -> None:
    """d/dlog(alpha) of -log(alpha) E[log pi + target] is -(E[log pi] + target), and no other loss moves it."""
    sac = learner("sac", "Pendulum-v1", batch_size=32, ent_coef="auto_0.3", target_entropy=-0.7, learning_rate=1e-2)
    batch = random_batch(sac, 32)
    noise = sac.noise(1)[0]
    with torch.no_grad():
        mean, log_std = sac.actor.policy(batch["obs"]).chunk(2, -1)
        u = mean + log_std.exp() * noise[0]
        log_prob = Normal(mean, log_std.exp()).log_prob(u).sum(1) - torch.log1p(-(u.tanh() ** 2)).sum(1)
    statistics, _ = sac.gradient_step(batch, noise, 1e-2)
    expected = -(float(log_prob.mean()) - 0.7)
    assert float(sac.log_ent_coef.grad) == pytest.approx(expected, rel=1e-4)
    assert float(statistics["train/ent_coef"]) == pytest.approx(0.3, rel=1e-6)
    assert float(statistics["train/ent_coef_loss"]) == pytest.approx(expected * math.log(0.3), rel=1e-4)
    # Adam's first step has the size of the learning rate, whatever the gradient's
    assert float(sac.log_ent_coef.detach()) == pytest.approx(math.log(0.3) - math.copysign(1e-2, expected), rel=1e-5)


def test_a_fixed_coefficient_stays_and_weighs_both_losses() -> None:
    zero, one = (learner("sac", "Pendulum-v1", ent_coef=value) for value in ("0", "1"))
    batch = random_batch(zero, 16)
    noise = zero.noise(1)[0]
    assert "ent_coef.log" not in dict(zero.actor_adam.flat.views(zero.actor_adam.parameters))
    _, log_prob = zero.distribution.draw(zero.actor.policy(batch["next_obs"]), noise[1])
    targets = [each.td_target(batch, noise[1], each.ent_coef()) for each in (zero, one)]
    torch.testing.assert_close(targets[0] - targets[1], batch["discount"] * log_prob, rtol=1e-4, atol=1e-5)
    _, log_prob = zero.distribution.draw(zero.actor.policy(batch["obs"]), noise[0])
    losses = [each.actor_gradient(batch, noise[0], each.ent_coef())["train/actor_loss"] for each in (zero, one)]
    torch.testing.assert_close(losses[1] - losses[0], log_prob.detach().mean(), rtol=1e-4, atol=1e-5)
    metrics = one.learn(batch, 1)
    assert metrics["train/ent_coef"] == 1 and "train/ent_coef_loss" not in metrics


def test_target_entropy_is_minus_the_dimensions() -> None:
    assert learner("sac").target_entropy == -2
    assert learner("sac", target_entropy="-0.5").target_entropy == -0.5


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ent_coef": "automatic"}, "ent_coef=automatic is none of auto"),
        ({"ent_coef": "-1"}, "ent_coef=-1 is none of auto"),
        ({"ent_coef": "nan"}, "ent_coef=nan is none of auto"),
        ({"ent_coef": "auto_0"}, "ent_coef=auto_0: a learned coefficient begins above 0"),
        ({"target_entropy": "low"}, "target_entropy=low is neither auto nor a number"),
    ],
)
def test_words_that_are_no_coefficient(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SACConfig(**knobs)


def test_targets_move_at_their_interval() -> None:
    sac = learner("sac", target_update_interval=3, tau=0.25)
    batch = random_batch(sac, 6 * 16)
    before = sac.critics_target.clone()
    seen: list[tuple[Tensor, Tensor]] = []
    original = sac.gradient_step

    def gradient_step(*rest: Any) -> Any:
        found = original(*rest)
        seen.append((sac.critics_target.clone(), sac.critics_adam.parameters.clone()))
        return found

    sac.gradient_step = gradient_step
    sac.learn(batch, 6)
    for i, (target, network) in enumerate(seen, 1):
        if i % 3 == 0:
            before = before + 0.25 * (network - before)
        torch.testing.assert_close(target, before, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["sac", "td3"])
def test_the_compiled_losses_are_the_eager_ones(agent: str) -> None:
    """Over 20 gradient steps rounding moves no weight by more than 1e-4."""
    torch._dynamo.reset()
    eager, compiled = (learner(agent, "Pendulum-v1", compile=word, adam_eps=1e-3) for word in ("off", "on"))
    for seed in range(20):
        batch = random_batch(eager, 16, seed)
        noise = eager.noise(1)[0]
        for each in (eager, compiled):
            each.gradient_steps += 1
            each.gradient_step(batch, noise, 1e-2)
    for one, two in ((eager.actor_adam, compiled.actor_adam), (eager.critics_adam, compiled.critics_adam)):
        torch.testing.assert_close(one.parameters, two.parameters, rtol=0, atol=1e-4)
    torch.testing.assert_close(eager.critics_target, compiled.critics_target, rtol=0, atol=1e-4)
    torch._dynamo.reset()


# ---- Stable-Baselines3's own gradient steps


def test_equals_stable_baselines3() -> None:
    """Four gradient steps from the same weights, batches and noise. Their log pi has an epsilon, set to 0 here; Adam's
    is large, so that rounding cannot turn the sign of a first step."""
    size, steps = 64, 4
    knobs: dict[str, Any] = {"gamma": 0.98, "tau": 0.1, "learning_rate": 1e-2}
    ours = learner("sac", "Pendulum-v1", batch_size=size, net_arch=[32, 24], adam_eps=1e-3, **knobs)
    theirs = Theirs(
        "MlpPolicy",
        gym.make("Pendulum-v1"),
        policy_kwargs={"net_arch": [32, 24], "optimizer_kwargs": {"eps": 1e-3}},
        buffer_size=10,
        device="cpu",
        **knobs,
    )
    assert theirs.log_ent_coef is not None
    theirs.ent_coef_optimizer = torch.optim.Adam([theirs.log_ent_coef], lr=1e-2, eps=1e-3)
    theirs.actor.action_dist.epsilon = 0.0
    theirs.set_logger(Logger(None, []))
    copy_weights(ours, theirs)
    theirs.critic_target.load_state_dict(theirs.critic.state_dict())

    batches = [random_batch(ours, size, seed) for seed in range(steps)]
    samples = iter(batches)
    theirs.replay_buffer.sample = lambda *args, **kwargs: as_samples(next(samples), 0.98)  # type: ignore[union-attr,method-assign]
    torch.manual_seed(7)
    with torch.random.fork_rng(devices=[]):
        noise = torch.stack([torch.stack([torch.empty(size, 1).normal_() for _ in range(2)]) for _ in range(steps)])
    theirs.train(steps, size)
    for batch, drawn in zip(batches, noise, strict=True):
        ours.gradient_steps += 1
        ours.gradient_step(batch, drawn, 1e-2)

    assert float(ours.log_ent_coef.detach()) == pytest.approx(float(theirs.log_ent_coef.detach()), rel=1e-4)
    check_critics(ours.critics, theirs.critic.q_networks)
    check_critics(ours.target_critics, theirs.critic_target.q_networks)
    own = [layer for layer in ours.actor.actor if isinstance(layer, nn.Linear)]
    hidden = [layer for layer in theirs.actor.latent_pi if isinstance(layer, nn.Linear)]
    for mine, other in zip(own, hidden, strict=False):
        torch.testing.assert_close(mine.weight, other.weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.bias, other.bias, rtol=1e-4, atol=1e-5)
    last: list[Any] = [theirs.actor.mu, theirs.actor.log_std]
    torch.testing.assert_close(own[-1].weight, torch.cat([head.weight for head in last]), rtol=1e-4, atol=1e-5)


def copy_weights(ours: Any, theirs: Any) -> None:
    own = [layer for layer in ours.actor.actor if isinstance(layer, nn.Linear)]
    hidden = [layer for layer in theirs.actor.latent_pi if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for mine, other in zip(own, hidden, strict=False):
            other.weight.copy_(mine.weight)
            other.bias.copy_(mine.bias)
        for head, part in ((theirs.actor.mu, slice(0, 1)), (theirs.actor.log_std, slice(1, 2))):
            head.weight.copy_(own[-1].weight[part])
            head.bias.copy_(own[-1].bias[part])
        give_critics(ours.critics, theirs.critic.q_networks)


def give_critics(ours: Critics, theirs: list[Any]) -> None:
    """Copy the weights of our critics into theirs."""
    with torch.no_grad():
        for which, network in enumerate(theirs):
            linear = [layer for layer in network if isinstance(layer, nn.Linear)]
            for layer, weight, bias in zip(linear, ours.weights, ours.biases, strict=True):
                layer.weight.copy_(weight[which].T)
                layer.bias.copy_(bias[which, 0])


def check_critics(ours: Critics, theirs: list[Any]) -> None:
    for which, network in enumerate(theirs):
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        for layer, weight, bias in zip(linear, ours.weights, ours.biases, strict=True):
            torch.testing.assert_close(weight[which].T, layer.weight, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(bias[which, 0], layer.bias, rtol=1e-4, atol=1e-5)


def as_samples(batch: dict[str, Any], gamma: float) -> ReplayBufferSamples:
    """Our transitions as their replay gives them."""
    return ReplayBufferSamples(
        observations=batch["obs"]["obs"],
        actions=batch["action"],
        next_observations=batch["next_obs"]["obs"],
        dones=1 - batch["discount"][:, None] / gamma,
        rewards=batch["reward"][:, None],
    )
