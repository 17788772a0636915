"""TD targets of Q-learning, and losses with their derivatives, as pure functions of a minibatch.

Each loss gives its derivative with the predictions in closed form: a hand-written backward pass needs no more, and
autograd starts from it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def of_actions(outputs: Tensor, action: Tensor) -> Tensor:
    """The outputs of the actions `[batch]` that were taken: `[batch, atoms]` of `outputs [batch, actions, atoms]`."""
    return outputs.gather(1, action.view(-1, 1, 1).expand(-1, 1, outputs.shape[-1])).squeeze(1)


def discounted(next_q: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """reward + discount * next_q, `[batch, atoms]`: the one-step (or n-step) target of each atom of the next state's
    value; `reward` and `discount` are `[batch]`, the discount 0 after a terminated step."""
    assert reward.shape == discount.shape == next_q.shape[:1]
    return torch.addcmul(reward.unsqueeze(-1), discount.unsqueeze(-1), next_q)


def project(probability: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """The distribution of reward + discount * z, with z drawn from `support [atoms]` by `probability [batch, atoms]`,
    projected onto the support: `[batch, atoms]` (Bellemare et al. 2017, arXiv:1707.06887, algorithm 1).

    Each mass is split between its two neighbouring atoms, which preserves the mean; mass outside of the support goes to
    its edge. `reward` and `discount` are `[batch]`.
    """
    assert reward.shape == discount.shape == probability.shape[:1]
    atoms = len(support)
    low, step = support[0], (support[-1] - support[0]) / (atoms - 1)
    z = discounted(support.expand_as(probability), reward, discount)
    place = ((z - low) / step).clamp_(0, atoms - 1)
    below = place.floor().clamp_(max=atoms - 2)  # the last atom counts as the upper neighbour of the one before it
    share = (place - below) * probability
    index = below.long()
    projected = torch.zeros_like(probability).scatter_add_(-1, index, probability - share)
    return projected.scatter_add_(-1, index + 1, share)


def huber(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The Huber loss with threshold 1 (Mnih et al. 2015: "clipping the error term"), `[batch]`, and its derivative with
    `prediction`; that and `target` are `[batch, 1]`."""
    assert prediction.shape == target.shape and prediction.shape[1:] == (1,)
    error = prediction - target
    slope = error.clamp(-1, 1)
    return torch.addcmul(error * slope, slope, slope, value=-0.5).squeeze(-1), slope


def cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of the distribution of `logits` from `target`, both `[batch, atoms]`: the loss `[batch]` and its derivative with
    the logits (Bellemare et al. 2017, section 4.1: the KL divergence but for the target's own entropy)."""
    assert logits.shape == target.shape
    log_p = F.log_softmax(logits, -1)
    return -(target * log_p).sum(-1), log_p.exp() - target


def quantile_huber(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The quantile Huber loss with threshold 1 (Dabney et al. 2018, arXiv:1710.10044, equation 10, summed over the
    quantiles of `prediction [batch, n]` and averaged over the samples `target [batch, m]`), `[batch]`, and its
    derivative with the prediction.

    Of the errors e = target - prediction the loss takes sums of 1, e and e^2 over e < -1, [-1, 0), [0, 1) and the rest.
    With the targets sorted these are differences of running sums: m log m steps in place of n m.
    """
    assert prediction.shape[:1] == target.shape[:1]
    n, m = prediction.shape[1], target.shape[1]
    exact = torch.float32 if prediction.device.type == "mps" else torch.float64  # differences of large sums
    p, t = prediction.to(exact), target.to(exact).sort(1).values
    level = (torch.arange(n, device=p.device, dtype=exact) + 0.5) / n
    sums = F.pad(torch.stack([t, t.square()]).cumsum(2), (1, 0))
    number = torch.searchsorted(t, torch.cat([p - 1, p, p + 1], 1))
    first, second = sums.gather(2, number.expand(2, -1, -1))  # of the targets up to each end, and of their squares
    (low, middle, high), (low1, middle1, high1), (low2, middle2, high2) = (
        x.chunk(3, 1) for x in (number, first, second)
    )

    below, above = middle - low, high - middle
    below1, above1 = middle1 - low1 - p * below, high1 - middle1 - p * above
    below2 = middle2 - low2 - p * (2 * below1 + p * below)
    above2 = high2 - middle2 - p * (2 * above1 + p * above)
    far_below1, far_above1 = low1 - p * low, sums[0, :, -1:] - high1 - p * (m - high)
    under = 0.5 * (below2 - low) - far_below1
    over = 0.5 * (above2 - (m - high)) + far_above1
    loss = ((1 - level) * under + level * over).sum(1) / m
    slope = ((1 - level) * (low - below1) - level * (above1 + m - high)) / m
    return loss.to(prediction.dtype), slope.to(prediction.dtype)


LOSSES = {"none": huber, "c51": cross_entropy, "qr": quantile_huber}
"""The losses by `agent.distributional`."""
