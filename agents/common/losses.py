"""Policy-gradient losses as pure functions of one minibatch, shared with the fine-tuning of language models by
reward."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """PPO's policy loss, element by element (Schulman et al. 2017, arXiv:1707.06347, equation 7), to be minimised.

    All `[...]` of one shape. `clip_high`: how far the ratio may rise, where that is not as far as it may fall (Yu et
    al. 2025, arXiv:2503.14476, equation 10). Returns `(loss, log_ratio)`, both `[...]`; the ratio's logarithm serves
    the diagnostics.
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    high = clip if clip_high is None else clip_high
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + high) * advantage), log_ratio


def policy_gradient(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """The likelihood-ratio loss, element by element (Williams 1992, doi:10.1007/BF00992696; Mnih et al. 2016,
    arXiv:1602.01783, section 4): `[...]` of one shape, to be minimised. Its gradient is -advantage grad log pi(a)."""
    return -log_prob * advantage


def standardized(advantage: Tensor) -> Tensor:
    """Normalise `advantage [batch]` to mean 0 and deviation 1; a single row is returned unchanged."""
    if len(advantage) < 2:
        return advantage
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def value_loss(value: Tensor, target: Tensor, old_value: Tensor | None = None, clip: float | None = None) -> Tensor:
    """Squared error, element by element, of `value [...]` against the return `target [...]`. With `clip`, the larger of
    that and the error of the prediction clipped to `old_value` +- `clip` (the clipped value loss of the reference
    implementation, openai/baselines ppo2).
    """
    loss = (value - target).square()
    if clip is None or old_value is None:
        return loss
    held = old_value + (value - old_value).clamp(-clip, clip)
    return torch.max(loss, (held - target).square())


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Estimate KL(old || new) from samples of old, mean over all: E[(r - 1) - log r], Schulman's k3
    (http://joschu.net/blog/kl-approx.html): unbiased, and never negative."""
    return (log_ratio.exp() - 1 - log_ratio).mean()


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """1 - Var[target - value] / Var[target], 0-d: 1 is a perfect critic, 0 one no better than a constant, NaN where the
    target is constant."""
    variance = target.var(correction=0)
    return torch.where(variance > 0, 1 - (target - value).var(correction=0) / variance, torch.nan)
