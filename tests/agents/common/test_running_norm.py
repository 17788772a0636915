"""Running statistics of observations (rl.md, traps 7 and 8)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlgym.agents.common.networks import Encoder
from rlgym.agents.common.running_norm import RunningNorm
from rlgym.envs.spaces import leaves
from tests.agents.worlds import OBSERVATIONS, copied, same


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_equals_the_moments_of_all_batches_together(offset: float) -> None:
    rng = np.random.default_rng(0)
    batches = [offset + rng.normal(i, 1 + i, (n, 2, 3)).astype(np.float32) for i, n in enumerate([1, 40, 7, 1000, 2])]
    norm = RunningNorm((2, 3))
    for batch in batches:
        norm.update(torch.from_numpy(batch))
    seen = np.concatenate(batches).astype(np.float64)
    assert norm.count == len(seen) and norm.count.dtype == torch.int64
    np.testing.assert_allclose(norm.mean, seen.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm.variance, seen.var(0), rtol=1e-4)
    x = torch.from_numpy(batches[3])
    by_hand = (batches[3] - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-8)
    assert np.abs(by_hand).max() < 10
    np.testing.assert_allclose(norm(x), by_hand, rtol=1e-4, atol=1e-4)


def test_thousands_of_small_batches_do_not_drift() -> None:
    """In float32, as a long run does it."""
    rng = np.random.default_rng(1)
    data = rng.normal(3.0, 2.0, (20_000, 4)).astype(np.float32)
    norm = RunningNorm((4,))
    for batch in torch.from_numpy(data).split(8):
        norm.update(batch)
    np.testing.assert_allclose(norm.mean, data.mean(0, dtype=np.float64), rtol=1e-4)
    np.testing.assert_allclose(norm.variance, data.var(0, dtype=np.float64), rtol=1e-3)


def test_nothing_moves_but_by_update() -> None:
    norm = RunningNorm((2,))
    x = torch.tensor([[3.0, -4.0], [0.5, 2.0]])
    torch.testing.assert_close(norm(x), x)  # mean 0, deviation 1 to begin with
    norm.update(torch.randn(100, 2))
    before = copied(norm.state_dict())
    assert set(before) == {"mean", "variance", "count"}, "a checkpoint holds them"
    first = norm(x)
    for mode in (True, False):
        norm.train(mode)
        for _ in range(3):
            assert torch.equal(norm(x), first)
    assert same(before, norm.state_dict())
    assert list(norm.parameters()) == [], "no gradient moves them either"


def test_clips_at_ten_deviations_and_takes_any_dtype() -> None:
    norm = RunningNorm((1,))
    norm.update(torch.tensor([[-1.0], [1.0]]))
    x = torch.tensor([[-1e9], [-10.5], [-9.5], [0.0], [9.5], [1e9]])
    assert norm(x).flatten().tolist() == pytest.approx([-10, -10, -9.5, 0, 9.5, 10], rel=1e-5)
    for dtype in (torch.uint8, torch.int64, torch.float64):
        assert norm(torch.ones(1, 1, dtype=dtype)).dtype == torch.float32


def test_a_constant_observation_is_zero_and_not_infinite() -> None:
    norm = RunningNorm((1,))
    norm.update(torch.full((10, 1), 7.0))
    assert norm(torch.full((2, 1), 7.0)).tolist() == [[0.0], [0.0]]


def test_the_encoder_scales_numbers_and_leaves_bits_choices_and_images_alone() -> None:
    encoder = Encoder(leaves(OBSERVATIONS["dict"]), normalize=True)
    assert set(encoder.norms) == {"a", "b/d/1"}
    assert set(Encoder(leaves(OBSERVATIONS["image_and_vector"]), normalize=True).norms) == {"ear"}
