"""The compiled update is the eager one (rl.md, trap 17). One compilation, of 10 to 30 s."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from rlgym.agents.on_policy.rollout import Batch, take
from rlgym.agents.ppo import PPO
from rlgym.config.device import can_compile
from rlgym.learner import NON_FINITE
from tests.agents.worlds import copied, learner

pytestmark = pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "clip_range_vf": 0.2, "learning_rate": 1e-3}
MOVES: dict[str, Any] = {"ent_coef": 0.01, "clip_range_schedule": "linear", "ent_coef_schedule": "linear"}


@pytest.fixture(scope="module")
def compiled() -> Iterator[PPO]:
    torch._dynamo.reset()
    yield learner("CartPole-v1", compile="on", steps=120 * 64, **SMALL, **MOVES)
    torch._dynamo.reset()


def test_equals_eager_over_100_updates(compiled: PPO) -> None:
    """Both take the gradient steps of the rollouts that the eager one gathers, so that rounding cannot change an
    action: over 200 steps of Adam it may move a statistic or a weight by 1e-4 at most (seen: 4e-6)."""
    eager = learner("CartPole-v1", steps=120 * 64, **SMALL, **MOVES)
    assert eager.config.compile == "off" and compiled.config.compile == "on"
    first = copied(dict(eager.network.named_parameters()))
    torch._dynamo.utils.counters.clear()
    for update in range(100):
        left = 1 - update / 120
        coefficients = (1e-3 * left, 0.2 * left, 0.01 * left)
        eager.rollout.collect(eager.env, eager.policy, eager.sampler, None)
        batch = eager.batch()
        statistics, skipped, norm = eager.epochs(batch, *coefficients)
        statistics2, skipped2, norm2 = compiled.epochs(batch, *coefficients)
        eager.rollout.carry_over()
        np.testing.assert_allclose(statistics, statistics2, rtol=1e-4, atol=1e-4, err_msg=f"update {update}")
        np.testing.assert_allclose(norm, norm2, rtol=1e-3)
        assert skipped == skipped2 == 0
    for (name, p), q in zip(eager.network.named_parameters(), compiled.network.parameters(), strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), atol=1e-4, err_msg=name)
        assert (p - first[name]).abs().max() > 1e-3, "and it learned"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "schedules must not compile anew"


def test_a_weight_or_a_coefficient_changes_the_compiled_result(compiled: PPO) -> None:
    compiled.rollout.collect(compiled.env, compiled.policy, compiled.sampler, None)
    whole = compiled.batch()
    rows = slice(0, 32)
    batch: Batch = {key: x[rows] for key, x in whole.items() if isinstance(x, torch.Tensor)}
    batch |= {"obs": {"obs": whole["obs"]["obs"][rows]}, "mask": None}
    batch["old_log_prob"] = batch["old_log_prob"] + 0.3 * torch.randn(32)  # ratios that the clip reaches

    def losses(clip: float, ent_coef: float) -> float:
        """The compiled loss, which must be the eager one."""
        loss, statistics = compiled.loss(batch, torch.tensor(clip), torch.tensor(ent_coef))
        expected, statistics2 = compiled.minibatch_loss(batch, clip, ent_coef)
        np.testing.assert_allclose(statistics.detach(), statistics2.detach(), rtol=1e-4, atol=1e-5)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
        return float(loss.detach())

    before = losses(0.2, 0.01)
    assert losses(0.2, 0.01) == before
    assert abs(losses(0.02, 0.01) - before) > 1e-4
    entropy_loss = float(compiled.minibatch_loss(batch, 0.2, 0.0)[1][2])
    assert losses(0.2, 0.11) == pytest.approx(before + 0.1 * entropy_loss, abs=1e-5)
    bias: Any = compiled.network.critic[-1].bias
    bias.data += 0.5
    assert abs(losses(0.2, 0.01) - before) > 1e-2


def test_the_learning_rate_moves_the_compiled_step(compiled: PPO) -> None:
    compiled.rollout.collect(compiled.env, compiled.policy, compiled.sampler, None)
    batch = compiled.batch()
    weights = copied([dict(compiled.network.named_parameters()), compiled.optimizer.state_dict()])

    def moved(learning_rate: float) -> torch.Tensor:
        with torch.no_grad():
            for name, parameter in compiled.network.named_parameters():
                parameter.copy_(weights[0][name])
        compiled.optimizer.load_state_dict(weights[1])
        before = compiled.optimizer.parameters.clone()
        compiled.shuffle_rng.manual_seed(0)
        compiled.epochs({**batch}, learning_rate, 0.2, 0.0)
        return compiled.optimizer.parameters - before

    assert (moved(0.0) == 0).all()
    slow, fast = moved(1e-6), moved(2e-6)
    np.testing.assert_allclose(fast.norm() / slow.norm(), 2, rtol=0.05)


def test_the_coefficients_of_an_update_reach_the_compiled_loss(compiled: PPO) -> None:
    compiled.rollout.collect(compiled.env, compiled.policy, compiled.sampler, None)
    batch = compiled.batch()
    batch["old_log_prob"] = batch["old_log_prob"] + 0.3 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    found = {}
    for clip, ent_coef in ((0.2, 0.01), (0.05, 0.01), (0.2, 0.5)):
        compiled.shuffle_rng.manual_seed(0)
        statistics, _, _ = compiled.epochs(batch, 0.0, clip, ent_coef)  # nothing moves
        shuffled = take(batch, torch.randperm(64, generator=compiled.shuffle_rng.manual_seed(0)))
        halves = [take(shuffled, slice(0, 32)), take(shuffled, slice(32, 64))]
        expected = torch.stack([compiled.minibatch_loss(half, clip, ent_coef)[1] for half in halves]).mean(0)
        np.testing.assert_allclose(statistics.detach(), expected.detach(), rtol=1e-4, atol=1e-5)
        found[clip, ent_coef] = statistics
    first, clipped, entropic = found.values()
    assert clipped[4] > first[4] + 0.1 and (entropic[5] - first[5]).abs() > 0.1


def test_compiled_training_withholds_what_is_not_finite(compiled: PPO) -> None:
    bias: Any = compiled.network.critic[0].bias
    bias.data[0] = torch.nan
    before = compiled.optimizer.parameters.nan_to_num()
    assert compiled.update()[NON_FINITE] == 2
    assert torch.equal(before, compiled.optimizer.parameters.nan_to_num())
