"""PPO as a whole: what one update learns from, what it leaves alone, and which environments it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from rlgym.agents.common import distributions
from rlgym.agents.ppo import PPO
from rlgym.envs.spaces import Array
from rlgym.learner import NON_FINITE
from tests.agents.worlds import (
    ACTIONS,
    OBSERVATIONS,
    Masked,
    copied,
    learner,
    same,
    spy_on_batches,
    spy_on_minibatches,
)

# ---- what the update sees is what the policy did (rl.md, trap 9)

ACTED: dict[str, dict[str, Any]] = {
    "discrete": {"id": "CartPole-v1"},
    "discrete, scaled observations": {"id": "CartPole-v1", "env": {"normalize_observation": True}},
    "gaussian far out of its bounds": {"id": "Pendulum-v1", "log_std_init": 1.5},
    "gaussian, scaled observations": {"id": "Pendulum-v1", "env": {"normalize_observation": True}, "std": "state"},
    "masked": {"id": "AllowedOnly-v0"},
    "masked image, acted by torch": {"id": "AllowedOnly-v0", "kwargs": {"image": True}},
}


def behaviour(ppo: Any, obs: Any, mask: Array | None, action: Array) -> Tensor:
    """log pi(action) by torch's own distributions, with the network as it stands."""
    outputs = ppo.network.policy(ppo.policy.tensors(obs))
    if isinstance(ppo.policy.distribution, distributions.Gaussian):
        mean, log_std = outputs.chunk(2, -1)
        gaussian = Independent(Normal(mean, log_std.exp()), 1)
        return torch.as_tensor(gaussian.log_prob(torch.from_numpy(action)))
    if mask is not None:
        outputs = outputs.masked_fill(~torch.from_numpy(mask), -math.inf)
    return torch.as_tensor(Categorical(logits=outputs).log_prob(torch.from_numpy(action)))


@pytest.mark.parametrize("case", ACTED)
def test_the_first_ratio_is_one(case: str) -> None:
    """The stored log-probability is that of the drawn action, by the policy that drew it when it did."""
    ppo: Any = learner(**ACTED[case])
    minibatches, batches = spy_on_minibatches(ppo), spy_on_batches(ppo)
    drawn: list[Tensor] = []
    actions: list[Tensor] = []
    taken: list[Array] = []
    choose, step = ppo.policy.choose, ppo.env.step

    def choosing(obs: Any, mask: Array | None, sampler: Any) -> Array:
        action: Array = choose(obs, mask, sampler)
        with torch.no_grad():
            drawn.append(behaviour(ppo, obs, mask, action))
        actions.append(torch.from_numpy(action.copy()))
        return action

    def stepping(action: Array) -> Any:
        taken.append(action.copy())
        return step(action)

    ppo.policy.choose = choosing
    ppo.env.step = stepping
    for _ in range(3):  # the first update moves the weights, and the observations' statistics
        for record in (minibatches, batches, drawn, actions, taken):
            record.clear()
        ppo.update()
        first, (batch,) = minibatches[0], batches
        ratio = (first["log_prob"] - first["old_log_prob"]).exp()
        assert (ratio - 1).abs().max() < 1e-5
        assert abs(first["train/approx_kl"]) < 1e-6 and first["train/clip_fraction"] == 0, "and the loss saw it so"
        assert ((batch["old_log_prob"] - torch.cat(drawn)).exp() - 1).abs().max() < 1e-5
        assert torch.equal(batch["action"], torch.cat(actions).view_as(batch["action"]))
        last = minibatches[-1]
        assert (last["log_prob"] - last["old_log_prob"]).abs().max() > 1e-4, "else this test would show nothing"
    if "bounds" in case:
        batch = batches[0]
        assert batch["action"].abs().max() > 2, "stored as drawn"
        given = np.concatenate(taken)
        assert given.min() == -2 and given.max() == 2, "given clipped"


# ---- a first policy that knows nothing; minibatches of one (trap 10)


def test_minibatches_of_one_row_stay_finite() -> None:
    for id in ("CartPole-v1", "Pendulum-v1"):
        ppo = learner(id, num_envs=2, n_steps=8, batch_size=1)
        before = copied(ppo.network.state_dict())
        metrics = ppo.update()
        assert metrics[NON_FINITE] == 0
        assert all(torch.as_tensor(value).isfinite() for value in metrics.values())
        assert all(p.isfinite().all() for p in ppo.network.parameters())
        assert not same(before, ppo.network.state_dict()), "and they are learned from"


@pytest.mark.parametrize(
    ("action", "entropy"),
    [("discrete", math.log(3)), ("multidiscrete", math.log(2) + math.log(4)), ("multibinary", 3 * math.log(2))],
)
@pytest.mark.parametrize("observation", ["vector", "dict", "image_hwc"])
def test_the_first_policy_is_near_uniform(action: str, entropy: float, observation: str) -> None:
    ppo = learner(
        "Anything-v0",
        num_envs=2,
        n_epochs=1,
        batch_size=32,  # a whole rollout: the entropy is that before the first step
        kwargs={"observation": observation, "action": action},
    )
    assert -float(ppo.update()["train/entropy_loss"]) == pytest.approx(entropy, rel=0.01)


# ---- every space


def check_trains(ppo: PPO) -> None:
    before = copied(ppo.network.state_dict())
    for _ in range(2):
        metrics = ppo.update()
        numbers = {tag: float(value) for tag, value in metrics.items()}
        assert numbers[NON_FINITE] == 0
        assert all(math.isfinite(value) for value in numbers.values()), numbers
    changed = {name for name, tensor in ppo.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(before), "every weight is learned"
    found = ppo.evaluate()
    assert len(found.records["episodes"]) == 3
    assert math.isfinite(found.metrics["eval/mean_reward"]) and found.metrics["eval/mean_ep_length"] == 5
    ppo.close()


@pytest.mark.parametrize("observation", [name for name in OBSERVATIONS if not name.startswith("image")])
def test_every_observation_with_every_action(observation: str) -> None:
    """The environment itself refuses an action outside of its space."""
    for action in ACTIONS:
        bounded = action in ("box", "box_asymmetric")
        for squash in (False, True) if bounded else (False,):
            ppo = learner(
                "Anything-v0",
                {"normalize_observation": action.startswith("multi") or squash},
                num_envs=2,
                n_steps=8,
                n_epochs=1,
                kwargs={"observation": observation, "action": action},
                squash=squash,
                log_std_init=0.5,
            )
            check_trains(ppo)


@pytest.mark.parametrize("observation", [name for name in OBSERVATIONS if name.startswith("image")])
@pytest.mark.parametrize("action", ["discrete_start", "box_asymmetric"])
def test_images(observation: str, action: str) -> None:
    kwargs = {"observation": observation, "action": action}
    ppo = learner("Anything-v0", num_envs=2, n_steps=8, n_epochs=1, squash=action.startswith("box"), kwargs=kwargs)
    assert ppo.policy.numpy_actor is None and not isinstance(ppo.sampler, np.random.Generator)
    check_trains(ppo)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_leaf_reaches_the_network(observation: str) -> None:
    """Actor and critic see each leaf: an observation that differs there alone is evaluated differently."""
    ppo = learner("Anything-v0", num_envs=2, kwargs={"observation": observation})
    one, two = ({name: x.copy() for name, x in ppo.env.reset(seed).items()} for seed in (1, 9))
    for leaf in ppo.env.leaves:
        other = {**one, leaf.name: two[leaf.name]}
        if leaf.kind == "onehot":  # so that no part is the same by chance
            other[leaf.name] = (one[leaf.name] + 1) % np.array(leaf.nvec)
        elif leaf.dtype == np.int8:
            other[leaf.name] = 1 - one[leaf.name]
        with torch.no_grad():
            (outputs, value), (outputs2, value2) = (ppo.network(ppo.policy.tensors(obs)) for obs in (one, other))
        assert (outputs != outputs2).any(1).all() and (value != value2).all(), leaf.name


def test_squashed_actions_reach_both_bounds_and_no_further() -> None:
    kwargs = {"action": "box_asymmetric"}
    ppo = learner("Anything-v0", num_envs=2, squash=True, log_std_init=3.0, kwargs=kwargs)
    space: Any = ppo.env.action_space
    obs = ppo.env.reset(0)
    drawn = np.concatenate([ppo.policy.act(obs, None, ppo.sampler) for _ in range(100)])
    np.testing.assert_allclose(drawn.min(0), space.low, atol=1e-3)
    np.testing.assert_allclose(drawn.max(0), space.high, atol=1e-3)
    assert (drawn >= space.low).all() and (drawn <= space.high).all()


# ---- action masks: the environment raises on an illegal action


@pytest.mark.parametrize("kwargs", [{}, {"parts": "multidiscrete"}, {"image": True}])
def test_no_illegal_action_in_training_or_evaluation(kwargs: dict[str, Any]) -> None:
    ppo = learner("AllowedOnly-v0", kwargs=kwargs, n_epochs=1, episodes=6)
    batches = spy_on_batches(ppo)
    for _ in range(3):
        metrics = ppo.update()
        assert metrics[NON_FINITE] == 0
        assert len(ppo.evaluate().records["episodes"]) == 6
    for batch in batches:
        assert torch.isfinite(batch["old_log_prob"]).all() and (batch["old_log_prob"] > -10).all()
        sizes = Masked(kwargs.get("parts", "discrete")).sizes
        for part, choice in zip(batch["mask"].split(sizes, -1), batch["action"].view(64, -1).unbind(1), strict=True):
            assert part.gather(1, choice[:, None]).all(), "the mask stored beside an action is the one it was drawn by"


def test_masks_silence_the_gradient_of_illegal_actions() -> None:
    ppo = learner("AllowedOnly-v0", ent_coef=0.1)
    batches = spy_on_batches(ppo)
    ppo.update()
    (batch,) = batches
    outputs = ppo.network.policy(batch["obs"]).detach().requires_grad_()
    logits = distributions.mask_logits(outputs, batch["mask"])
    log_prob, entropy = ppo.policy.distribution.log_prob_entropy(logits, batch["action"])
    (log_prob.sum() + entropy.sum()).backward()
    assert outputs.grad is not None
    assert (outputs.grad[~batch["mask"]] == 0).all() and (outputs.grad[batch["mask"]] != 0).any()


class Unlucky(np.random.Generator):
    """Every noise is exactly 0, as about one in ten million of NumPy's float32 exponentials is."""

    def standard_exponential(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        noise = super().standard_exponential(size, *args, **kwargs)
        noise[..., ::2] = 0.0
        return noise


def test_no_noise_however_rare_outweighs_a_mask() -> None:
    mask = np.tile([False, True], (50, 3))
    logits = np.where(mask, np.float32(0), np.float32(distributions.MASKED))
    unlucky = Unlucky(np.random.PCG64(0))
    with np.errstate(divide="raise"):
        assert (distributions.Categorical(6).sample_numpy(logits, unlucky) % 2 == 1).all()
        assert (distributions.MultiCategorical((2, 4)).sample_numpy(logits, unlucky) % 2 == 1).all()


# ---- when epochs end, and where schedules do


def test_target_kl_ends_an_updates_epochs() -> None:
    def minibatches(target_kl: float | None) -> int:
        ppo = learner("CartPole-v1", n_epochs=5, target_kl=target_kl, learning_rate=1e-2)
        seen = spy_on_minibatches(ppo)
        ppo.update()
        return len(seen)

    assert minibatches(None) == 5 * 4
    assert minibatches(1e9) == 5 * 4
    assert minibatches(1e-9) == 4, "one epoch of 64 rows in minibatches of 16"


def test_schedules_go_to_zero_over_the_budget() -> None:
    scheduled: dict[str, Any] = {"clip_range_schedule": "linear", "ent_coef_schedule": "linear", "ent_coef": 0.1}
    ppo: Any = learner("CartPole-v1", steps=4 * 64, learning_rate=1e-3, clip_range=0.2, **scheduled)
    coefficients: list[tuple[float, ...]] = []
    original = ppo.epochs

    def epochs(batch: Any, *given: float) -> Any:
        coefficients.append(given)
        return original(batch, *given)

    ppo.epochs = epochs
    metrics = [ppo.update() for _ in range(4)]
    left = np.array([1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(coefficients, np.outer(left, [1e-3, 0.2, 0.1]))
    np.testing.assert_allclose([m["train/learning_rate"] for m in metrics], left * 1e-3)
    np.testing.assert_allclose([m["train/clip_range"] for m in metrics], left * 0.2)
    before = copied(dict(ppo.network.named_parameters()))
    ppo.update()
    assert coefficients[-1] == (0, 0, 0) and same(before, dict(ppo.network.named_parameters()))


def test_schedules_keep_to_the_first_budget() -> None:
    ppo = learner("CartPole-v1", steps=64)
    ppo.config.schedule_steps, ppo.config.steps = 128, 10_000
    ppo.update()
    assert ppo.update()["train/learning_rate"] == pytest.approx(0.5 * ppo.knobs.learning_rate)


# ---- numbers that are not finite


def test_only_the_bad_minibatches_are_withheld() -> None:
    """A reward so large that its squared error overflows lies in one minibatch of each epoch."""
    ppo = learner("Clock-v0", num_envs=1, n_steps=16, batch_size=4, gae_lambda=0.0, kwargs={"length": 12, "last": 1e25})
    metrics = ppo.update()
    assert metrics[NON_FINITE] == 2, "one of the four, in both epochs"
    assert all(p.isfinite().all() for p in ppo.network.parameters())
    assert all(torch.isfinite(torch.as_tensor(x)).all() for x in ppo.optimizer.state_dict().values())
    assert ppo.optimizer.steps == 6


@pytest.mark.parametrize("poison", ["parameter", "reward"])
def test_a_bad_update_is_not_applied(poison: str) -> None:
    ppo = learner("Clock-v0", n_epochs=3, kwargs={"length": 2, "last": 1e25 if poison == "reward" else 1.0})
    if poison == "parameter":
        bias = ppo.network.critic[0].bias
        assert isinstance(bias, Tensor)
        bias.data[0] = torch.nan
    before = copied([ppo.network.state_dict(), ppo.optimizer.state_dict()])
    metrics = ppo.update()
    after: list[Any] = [ppo.network.state_dict(), ppo.optimizer.state_dict()]
    if poison == "parameter":
        assert torch.isnan(after[0]["critic.0.bias"]).sum() == 1
        for state in (before[0], after[0]):
            state["critic.0.bias"] = state["critic.0.bias"].nan_to_num()
    assert same(before, after)
    assert metrics[NON_FINITE] == 3 * 4, "every minibatch of three epochs"
