"""Advantages, losses and coefficients of the methods that learn from a reward, by brute force."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import rlgym.agents.ppo
import rlgym.ssl.finetune.grpo
import rlgym.ssl.finetune.ppo
import rlgym.ssl.finetune.rloo
from rlgym.agents.common.losses import clipped_surrogate
from rlgym.ssl.finetune.best_of_n import best
from rlgym.ssl.finetune.grpo import group_advantages, normalizer, summed
from rlgym.ssl.finetune.ppo import adapted, last, token_advantages, token_rewards
from rlgym.ssl.finetune.rewarded import cut, spread, weigh
from rlgym.ssl.finetune.rloo import leave_one_out


def test_one_clipped_surrogate_and_one_gae() -> None:
    """Games and language models are trained by the very same functions."""
    import rlgym.agents.common.losses as losses
    from rlgym.agents.common import returns
    from rlgym.agents.on_policy import base

    for user in (rlgym.agents.ppo, rlgym.ssl.finetune.ppo, rlgym.ssl.finetune.grpo, rlgym.ssl.finetune.rloo):
        assert vars(user)["clipped_surrogate"] is losses.clipped_surrogate
    assert vars(rlgym.ssl.finetune.ppo)["value_loss"] is vars(rlgym.agents.ppo)["value_loss"] is losses.value_loss
    assert vars(rlgym.ssl.finetune.ppo)["gae"] is vars(base)["gae"] is returns.gae


def test_the_ratio_may_rise_further_than_it_falls() -> None:
    ratio = torch.tensor([0.5, 0.9, 1.1, 1.25, 2.0])
    for advantage in (1.0, -1.0):
        loss, _ = clipped_surrogate(ratio.log(), torch.zeros(5), torch.full((5,), advantage), 0.2, 0.3)
        expected = [-min(r * advantage, min(max(r, 0.8), 1.3) * advantage) for r in ratio.tolist()]
        torch.testing.assert_close(loss, torch.tensor(expected))


REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 0.1, 0.1, 0.1, 0.1, -1.0, 0.5, 3.0, 0.0])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages(scale: str) -> None:
    found = group_advantages(REWARDS, 4, scale).view(4, 4)
    everything = REWARDS.tolist()
    mean = sum(everything) / 16
    batch = (sum((r - mean) ** 2 for r in everything) / 15) ** 0.5
    for row, group in zip(found, REWARDS.view(4, 4).tolist(), strict=True):
        middle = sum(group) / 4
        deviation = (sum((r - middle) ** 2 for r in group) / 3) ** 0.5
        by = {"group": deviation + 1e-4, "batch": batch + 1e-4, "none": 1.0}[scale]
        torch.testing.assert_close(row, torch.tensor([(r - middle) / by for r in group]), atol=1e-5, rtol=1e-5)
    assert (found[1] == 0).all() and (found[2] == 0).all(), "equal rewards say nothing, to the last bit"


def test_leave_one_out() -> None:
    found = leave_one_out(REWARDS, 4)
    for at, reward in enumerate(REWARDS.tolist()):
        group = REWARDS.tolist()[at // 4 * 4 : at // 4 * 4 + 4]
        others = (sum(group) - reward) / 3
        assert float(found[at]) == pytest.approx(reward - others, abs=1e-6)
    assert (found[4:12] == 0).all()


def test_the_best_of_each_group() -> None:
    assert best(REWARDS, 4, None).tolist() == [0, 4, 8, 14]
    assert best(REWARDS, 4, 1.0).tolist() == [4, 14]
    assert best(torch.zeros(8), 4, 0.0).tolist() == []


MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0]]).bool()


def test_normalisations() -> None:
    each = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(0))
    rows = [each[row][MASK[row]].tolist() for row in range(3)]
    expected = {
        "grpo": sum(sum(row) / len(row) for row in rows) / 3,
        "dapo": sum(map(sum, rows)) / 9,
        "dr_grpo": sum(map(sum, rows)) / (3 * 7),
    }
    for name, value in expected.items():
        assert float(summed(each, MASK, name) / normalizer(MASK, name, 7)) == pytest.approx(value, rel=1e-5)
    nothing = torch.zeros_like(MASK)
    for name in expected:
        parts = [{"counts": nothing}]
        weigh(parts, [normalizer(nothing, name, 7)])
        assert float(summed(each, nothing, name) / parts[0]["weight"]) == 0.0


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo"])
def test_parts_of_a_batch_add_up(name: str) -> None:
    """Accumulated over parts of unequal length, the loss is that of the whole batch."""
    each = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(1))
    whole = {"mask": MASK, "counts": MASK, "each": each}
    totals = []
    for sizes in ([3], [1, 2], [1, 1, 1]):
        parts = [cut(whole, rows) for rows in torch.arange(3).split(sizes)]
        weigh(parts, [normalizer(part["counts"], name, 7) for part in parts])
        weight = torch.stack([part["weight"] for part in parts]).sum()
        totals.append(float(sum(summed(part["each"], part["counts"], name) for part in parts) / weight))
        assert sum(float(p["counts"].sum() * p["per_token"]) for p in parts) / float(weight) == pytest.approx(1.0)
    assert totals == pytest.approx([totals[0]] * 3, rel=1e-5)


def test_spread_puts_values_back_with_their_gradient() -> None:
    values = torch.arange(1.0, 10.0, requires_grad=True)
    placed = spread(values, MASK)
    assert placed[MASK].tolist() == values.tolist() and (placed[~MASK] == 0).all()
    (placed * torch.arange(18.0).view(3, 6)).sum().backward()
    assert values.grad is not None and values.grad.tolist() == torch.arange(18.0).view(3, 6)[MASK].tolist()


def test_what_each_token_earns() -> None:
    log_prob = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(0)) * MASK
    reference = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(1)) * MASK
    reward = torch.tensor([1.0, -2.0, 3.0])
    found = token_rewards(reward, log_prob, reference, MASK, 0.1)
    for row in range(3):
        places = MASK[row].nonzero().flatten().tolist()
        for at in range(6):
            cost = -0.1 * float(log_prob[row, at] - reference[row, at]) if at in places else 0.0
            assert float(found[row, at]) == pytest.approx(cost + (float(reward[row]) if at == places[-1] else 0.0))
    assert last(MASK).nonzero()[:, 1].tolist() == [4, 5, 4]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (1.0, 0.0)])
def test_advantages_of_tokens_by_brute_force(gamma: float, lam: float) -> None:
    draw = random.Random(0)
    reward, value = (torch.tensor([[draw.uniform(-1, 1) for _ in range(6)] for _ in range(3)]) * MASK for _ in range(2))
    found = token_advantages(reward, value, MASK, gamma, lam)
    for row in range(3):
        places = MASK[row].nonzero().flatten().tolist()
        rewards, values = ([float(x[row, at]) for at in places] for x in (reward, value))
        values.append(0.0)  # an end is worth nothing more
        deltas = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
        expected = [
            sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))
        ]
        assert found[row, places].tolist() == pytest.approx(expected, abs=1e-5)
    assert (found[~MASK] == 0).all()


def test_the_coefficient_follows_its_target() -> None:
    assert adapted(0.1, 6.0, 6.0, 100, 10_000) == pytest.approx(0.1)
    assert adapted(0.1, 60.0, 6.0, 100, 10_000) == pytest.approx(0.1 * 1.002)
    assert adapted(0.1, -1.0, 6.0, 100, 10_000) == pytest.approx(0.1 * 0.998)
    assert adapted(0.1, 6.6, 6.0, 100, 1_000) == pytest.approx(0.1 * 1.01)


def gradient_of_rloo(logits: Tensor, actions: Tensor, advantage: Tensor) -> Tensor:
    log_prob = logits.log_softmax(-1)[actions]
    loss, _ = clipped_surrogate(log_prob, log_prob.detach(), advantage, 0.2)
    (found,) = torch.autograd.grad(loss.mean(), logits)
    return found


def test_before_the_first_step_it_is_reinforce() -> None:
    logits = torch.randn(5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    actions, advantage = torch.tensor([0, 3, 3, 1]), torch.tensor([1.0, -0.5, 2.0, 0.0])
    (expected,) = torch.autograd.grad(-(logits.log_softmax(-1)[actions] * advantage).mean(), logits)
    torch.testing.assert_close(gradient_of_rloo(logits, actions, advantage), expected)
