"""KL(policy || reference) from sampled tokens: Schulman's three estimators (http://joschu.net/blog/kl-approx.html).

With `l = log pi(x) - log ref(x)` and x drawn from the policy. All three estimate the KL divergence (k2 with a bias),
but their gradients differ. For means over x, as a function of the policy's parameters:

    k1 = l                  in the reward (as a constant): exact.     In the loss: 0, it teaches nothing.
    k2 = l^2 / 2            in the loss: exactly the gradient of KL(policy || reference).
    k3 = e^-l - 1 + l       in the loss: that of KL(reference || policy). As published for GRPO.
    k3 x ratio              in the loss, with the ratio pi / pi_old: exact.
"""

from __future__ import annotations

from torch import Tensor


def k1(log_prob: Tensor, reference: Tensor) -> Tensor:
    """k1, element by element, `[...]`: unbiased, and negative half of the time."""
    return log_prob - reference


def k2(log_prob: Tensor, reference: Tensor) -> Tensor:
    """k2: never negative; biased if the distributions are far apart."""
    return 0.5 * (log_prob - reference).square()


def k3(log_prob: Tensor, reference: Tensor) -> Tensor:
    """k3: unbiased and never negative."""
    log_ratio = reference - log_prob
    return log_ratio.exp() - 1 - log_ratio


def in_loss(estimator: str, log_prob: Tensor, reference: Tensor, old_log_prob: Tensor) -> Tensor:
    """The term added to each token's loss, `[...]`; `estimator`: k2, k3, or k3_ratio."""
    if estimator == "k2":
        return k2(log_prob, reference)
    found = k3(log_prob, reference)
    return found * (log_prob - old_log_prob).exp() if estimator == "k3_ratio" else found
