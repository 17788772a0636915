from __future__ import annotations

import numpy as np
import torch

from rlgym.envs.normalize import RewardScaler, RunningMoments


def test_moments_of_batches_are_the_moments_of_all() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(1e6, 2.0, (n, 3)) for n in (1, 7, 0, 64, 2)]  # a large mean: the naive sum of squares fails
    moments = RunningMoments((3,))
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches)
    assert moments.count == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, everything.var(0), rtol=1e-6)


def test_the_discounted_return_starts_over_at_every_end() -> None:
    """rl.md, trap 6: truncated or terminated, in either autoreset mode; compared with returns summed by hand."""
    rng = np.random.default_rng(0)
    scaler, gamma = RewardScaler(2, 0.9), 0.9
    seen: list[float] = []
    running = [0.0, 0.0]
    for _ in range(200):
        reward, ended = rng.normal(5, 1, 2), rng.random(2) < 0.2
        scaled = scaler(reward, ended)
        for i in range(2):
            running[i] = gamma * running[i] + reward[i]
            seen.append(running[i])
        np.testing.assert_allclose(scaled, np.clip(reward / np.std(seen), -10, 10), rtol=1e-5)
        running = [0.0 if ended[i] else running[i] for i in range(2)]
    assert scaler.returns.tolist() == running


def test_phantom_rows_leave_no_trace() -> None:
    with_phantoms, without = RewardScaler(1, 0.9), RewardScaler(1, 0.9)
    end = [False, False, True]
    for _ in range(5):
        for t in range(3):
            a = with_phantoms(np.array([1.0 + t]), np.array([end[t]]), np.array([True]))
            assert a == without(np.array([1.0 + t]), np.array([end[t]]))
        with_phantoms(np.array([0.0]), np.array([False]), np.array([False]))
    assert with_phantoms.moments.count == without.moments.count
    assert with_phantoms.moments.var == without.moments.var


def test_rewards_are_clipped_and_the_state_continues() -> None:
    scaler = RewardScaler(1, 0.99)
    for _ in range(50):
        scaler(np.array([0.01]), np.array([True]))
    scaler(np.array([0.02]), np.array([False]))
    twin = RewardScaler(1, 0.99)
    state = scaler.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    twin.load_state_dict(state)
    for reward in (1e6, -1e6, 0.5):
        a, b = (s(np.array([reward]), np.array([False])) for s in (scaler, twin))
        assert a == b and abs(a[0]) <= 10
    assert a.dtype == np.float32
