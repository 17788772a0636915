"""The estimators of KL by enumeration of 8 actions, against autograd of the exact divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from rlgym.agents.common.losses import policy_gradient
from rlgym.ssl.finetune import kl

ACTIONS = 8


def both(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of a policy (with gradients) and the log-probabilities of a reference."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(ACTIONS, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, torch.randn(ACTIONS, generator=generator, dtype=torch.float64).log_softmax(-1)


def exact(logits: Tensor, reference: Tensor, forward: bool = False) -> Tensor:
    log_prob = logits.log_softmax(-1)
    if forward:
        return (reference.exp() * (reference - log_prob)).sum()
    return (log_prob.exp() * (log_prob - reference)).sum()


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, logits, retain_graph=True)
    return found


def expected(each: Tensor, logits: Tensor) -> Tensor:
    """The mean over actions drawn from the policy, its probabilities constant as they are for a batch of samples."""
    return (logits.log_softmax(-1).exp().detach() * each).sum()


def test_as_numbers_k1_and_k3_are_unbiased() -> None:
    logits, reference = both()
    log_prob = logits.log_softmax(-1)
    for estimator in (kl.k1, kl.k3):
        torch.testing.assert_close(expected(estimator(log_prob, reference), logits), exact(logits, reference))
    assert (kl.k2(log_prob, reference) >= 0).all() and (kl.k3(log_prob, reference) >= 0).all()
    assert not torch.isclose(expected(kl.k2(log_prob, reference), logits), exact(logits, reference))


def test_in_the_loss_k2_is_exact_k1_teaches_nothing_and_k3_is_the_other_divergence() -> None:
    logits, reference = both(1)
    log_prob = logits.log_softmax(-1)
    reverse = gradient(exact(logits, reference), logits)
    old = log_prob.detach()
    found = {name: expected(kl.in_loss(name, log_prob, reference, old), logits) for name in ("k2", "k3", "k3_ratio")}
    torch.testing.assert_close(gradient(found["k2"], logits), reverse)
    torch.testing.assert_close(gradient(found["k3_ratio"], logits), reverse)
    torch.testing.assert_close(
        gradient(expected(kl.in_loss("k3", logits.log_softmax(-1), reference, old), logits), logits),
        gradient(exact(logits, reference, forward=True), logits),
    )
    nothing = gradient(expected(kl.k1(logits.log_softmax(-1), reference), logits), logits)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))


def test_in_the_reward_k1_is_exact() -> None:
    logits, reference = both(2)
    log_prob = logits.log_softmax(-1)
    reward = -kl.k1(log_prob, reference).detach()
    torch.testing.assert_close(
        gradient(expected(policy_gradient(log_prob, reward), logits), logits),
        gradient(exact(logits, reference), logits),
    )
