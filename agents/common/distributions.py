"""Action distributions: each turns a network's outputs `[batch, outputs]` into samples, log-probabilities, entropy.

Written as plain arithmetic rather than `torch.distributions`: on a small network those objects cost more than
the network (measured: 142 us against 69 us an act step of 8).
"""

from __future__ import annotations

import math
from typing import Protocol

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.envs.spaces import Array
from rlgym.errors import RequestError

MASKED = -1e8  # logit of an illegal action: finite, so that p * log p is 0 and not NaN
TINY = np.finfo(np.float32).tiny
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(Protocol):
    outputs: int
    """Size of the policy network's output for one state."""
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions `[batch, *action_shape]`; the mode when `generator` is None."""
        ...

    def sample_numpy(self, outputs: Array, generator: np.random.Generator | None) -> Array:
        """`sample` in NumPy, for the act step of small networks."""
        ...

    def log_prob_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(action) and the entropy, both `[batch]`."""
        ...


def mask_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits `[batch, n]` with those of illegal actions (`mask` False) set to `MASKED`."""
    return logits if mask is None else logits.masked_fill(~mask, MASKED)


def _gumbel_argmax(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """A sample of softmax(logits) over the last axis by the Gumbel-max trick; the mode without a generator."""
    if generator is not None:
        noise = torch.empty_like(logits).exponential_(generator=generator)
        logits = logits - noise.log()
    return logits.argmax(-1)


def _log_exponential(like: Array, generator: np.random.Generator) -> Array:
    """log of standard exponential noise in the shape of `like`: minus Gumbel noise.

    One in ten million of NumPy's float32 draws is 0; its infinite logarithm would outweigh even a mask.
    """
    noise = generator.standard_exponential(like.shape, dtype=np.float32)
    np.maximum(noise, TINY, out=noise)
    logarithm: Array = np.log(noise, out=noise)
    return logarithm


class Categorical:
    """One choice out of n: `Discrete(n)`."""

    action_shape: tuple[int, ...] = ()
    action_dtype = torch.int64

    def __init__(self, n: int) -> None:
        self.outputs = n

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        return _gumbel_argmax(outputs, generator)

    def sample_numpy(self, outputs: Array, generator: np.random.Generator | None) -> Array:
        noisy = outputs if generator is None else outputs - _log_exponential(outputs, generator)
        choice: Array = noisy.argmax(-1)
        return choice

    def log_prob_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(outputs, -1)
        return log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


class MultiCategorical:
    """Independent choices: `MultiDiscrete(nvec)`, and `MultiBinary(n)` as n choices out of 2, of any shape."""

    action_shape: tuple[int, ...]
    action_dtype = torch.int64

    def __init__(self, nvec: tuple[int, ...], shape: tuple[int, ...] | None = None) -> None:
        self.nvec = nvec
        self.outputs = sum(nvec)
        self.action_shape = shape or (len(nvec),)

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        choices = torch.stack([_gumbel_argmax(part, generator) for part in outputs.split(self.nvec, -1)], -1)
        return choices.reshape(-1, *self.action_shape)

    def sample_numpy(self, outputs: Array, generator: np.random.Generator | None) -> Array:
        noisy = outputs if generator is None else outputs - _log_exponential(outputs, generator)
        choices = np.stack([part.argmax(-1) for part in np.split(noisy, np.cumsum(self.nvec)[:-1], -1)], -1)
        return choices.reshape(-1, *self.action_shape)

    def log_prob_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        parts, action = [F.log_softmax(part, -1) for part in outputs.split(self.nvec, -1)], action.flatten(1)
        log_prob = sum(part.gather(-1, action[..., i : i + 1]).squeeze(-1) for i, part in enumerate(parts))
        entropy = -sum((part.exp() * part).sum(-1) for part in parts)
        assert isinstance(log_prob, Tensor) and isinstance(entropy, Tensor)
        return log_prob, entropy


class Gaussian:
    """Independent normals: a vector `Box`. The outputs are `[mean, log deviation]`, `[batch, 2 * dimensions]`.

    Samples are not clipped here: the environment gets them clipped to its bounds, the loss uses the raw samples.
    """

    action_dtype = torch.float32

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.action_shape = shape
        self.dimensions = math.prod(shape)
        self.outputs = 2 * self.dimensions

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        if generator is not None:
            mean = mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)
        return mean.reshape(-1, *self.action_shape)

    def sample_numpy(self, outputs: Array, generator: np.random.Generator | None) -> Array:
        mean, log_std = outputs[..., : self.dimensions], outputs[..., self.dimensions :]
        if generator is None:
            mean = mean.copy()  # the outputs may lie in a buffer
        else:
            mean = mean + np.exp(log_std) * generator.standard_normal(mean.shape, dtype=np.float32)
        drawn: Array = mean.reshape(-1, *self.action_shape)
        return drawn

    def log_prob_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = outputs.chunk(2, -1)
        z = (action.reshape(mean.shape) - mean) * (-log_std).exp()
        log_prob = -(0.5 * z.square() + log_std + HALF_LOG_2PI).sum(-1)
        return log_prob, (log_std + (0.5 + HALF_LOG_2PI)).sum(-1)


class SquashedGaussian(Gaussian):
    """A Gaussian through tanh: actions in (-1, 1), which the policy scales to the Box's bounds.

    log pi(a) = log N(u) - sum log(1 - tanh(u)^2), u = atanh(a) (Haarnoja et al. 2018, arXiv:1812.05905, appendix C).
    The entropy has no closed form; -log pi(a) of the given action is its one-sample estimate.
    """

    EDGE = 1 - 1e-6  # float32 tanh reaches 1 exactly, where atanh is infinite

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().sample(outputs, generator).tanh()

    def sample_numpy(self, outputs: Array, generator: np.random.Generator | None) -> Array:
        squashed: Array = np.tanh(super().sample_numpy(outputs, generator))
        return squashed

    def log_prob_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        u = action.clamp(-self.EDGE, self.EDGE).atanh()
        log_prob, _ = super().log_prob_entropy(outputs, u)
        # log(1 - tanh(u)^2) in a form that does not cancel for large |u|
        slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
        log_prob = log_prob - slope.reshape(len(slope), -1).sum(-1)
        return log_prob, -log_prob


class ClampedGaussian(SquashedGaussian):
    """The squashed Gaussian of SAC: log deviations clamped to [-20, 2], samples with derivatives."""

    LOG_STD = (-20.0, 2.0)

    def clamped(self, outputs: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        return torch.cat([mean, log_std.clamp(*self.LOG_STD)], -1)

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().sample(self.clamped(outputs), generator)

    def sample_numpy(self, outputs: Array, generator: np.random.Generator | None) -> Array:
        mean, log_std = outputs[..., : self.dimensions], outputs[..., self.dimensions :]
        if generator is not None:
            std = np.exp(np.maximum(np.minimum(log_std, self.LOG_STD[1]), self.LOG_STD[0]))
            mean = mean + std * generator.standard_normal(mean.shape, dtype=np.float32)
        squashed: Array = np.tanh(mean).reshape(-1, *self.action_shape)
        return squashed

    def log_prob_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return super().log_prob_entropy(self.clamped(outputs), action)

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions tanh(mean + deviation * noise) `[batch, dimensions]` and their log pi `[batch]` (Haarnoja et al.
        2018, arXiv:1812.05905, equations 8 and 26). `noise [batch, dimensions]`: normal.

        The log-probability is taken before tanh, which is finite where the action has reached 1.
        """
        mean, log_std = outputs.chunk(2, -1)
        log_std = log_std.clamp(*self.LOG_STD)
        u = torch.addcmul(mean, log_std.exp(), noise)
        # - log N(u) + log(1 - tanh(u)^2), number by number but for a constant: 1 - tanh(u)^2 = 4 / (e^u + e^-u)^2
        minus_log_prob = torch.add(log_std, torch.logaddexp(u, -u), alpha=-2).addcmul_(noise, noise, value=0.5)
        return u.tanh(), minus_log_prob.sum(-1).neg_().sub_(self.dimensions * (HALF_LOG_2PI + 2 * math.log(2)))

    def draw_slope(
        self, outputs: Tensor, noise: Tensor, action: Tensor, of_action: Tensor, of_log_prob: Tensor
    ) -> Tensor:
        """A loss's derivative with `outputs`, of their shape, from those with what `draw` made of them: with the
        `action`, `of_action [batch, dimensions]`, and with log pi, `of_log_prob` (0-d, the same for all)."""
        log_std = outputs[:, self.dimensions :]
        clamped = log_std.clamp(*self.LOG_STD)
        # of_action (1 - a^2) + of_log_prob 2 a: da/du is 1 - a^2, and d log pi / du 2 a, u's noise being what is given
        of_u = torch.addcmul(of_action, action, torch.addcmul(2 * of_log_prob, of_action, action, value=-1))
        of_log_std = clamped.exp().mul_(noise).mul_(of_u).sub_(of_log_prob).mul_(log_std == clamped)
        return torch.cat([of_u, of_log_std], -1)


class NoisyTanh:
    """The deterministic policy of TD3: tanh(outputs), with exploration noise of deviation `std` added after the tanh,
    clipped to [-1, 1]."""

    action_dtype = torch.float32

    def __init__(self, shape: tuple[int, ...], std: float) -> None:
        self.action_shape = shape
        self.outputs = math.prod(shape)
        self.std = std

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        action = outputs.tanh()
        if generator is not None:
            action = action + self.std * torch.empty_like(action).normal_(generator=generator)
        return action.clamp(-1, 1).reshape(-1, *self.action_shape)

    def sample_numpy(self, outputs: Array, generator: np.random.Generator | None) -> Array:
        action = np.tanh(outputs)
        if generator is not None:
            action += np.float32(self.std) * generator.standard_normal(action.shape, dtype=np.float32)
        clipped: Array = action.clip(-1, 1).reshape(-1, *self.action_shape)
        return clipped

    def log_prob_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Deviation of the noise before clipping."""
        assert self.std > 0, "without noise there is no density"
        log_std = math.log(self.std)
        z = (action.reshape(outputs.shape) - outputs.tanh()) / self.std
        log_prob = -(0.5 * z.square() + log_std + HALF_LOG_2PI).sum(-1)
        return log_prob, torch.full_like(log_prob, self.outputs * (log_std + 0.5 + HALF_LOG_2PI))


def distribution_for(space: gym.Space[object], agent: str, squash: bool = False) -> Distribution:
    """The distribution for actions in `space`. RequestError, naming `agent`, where there is none."""
    if isinstance(space, gym.spaces.Discrete):
        return Categorical(int(space.n))
    if isinstance(space, gym.spaces.MultiDiscrete):
        return MultiCategorical(tuple(int(n) for n in space.nvec.ravel()), space.shape)
    if isinstance(space, gym.spaces.MultiBinary):
        return MultiCategorical((2,) * math.prod(space.shape), space.shape)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if not squash:
            return Gaussian(space.shape)
        if space.is_bounded():
            return SquashedGaussian(space.shape)
        raise RequestError(f"agent.squash=true needs finite bounds, and {space} has none; agent.squash=false would do")
    raise RequestError(
        f"agent={agent} cannot act in {space}: it takes Discrete, MultiDiscrete, MultiBinary or a Box of floats; "
        "wrap the environment so that its actions are one of these"
    )
