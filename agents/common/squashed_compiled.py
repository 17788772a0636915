"""ClampedGaussian's draws and their derivatives compiled: on a CPU torch's dozen calls cost more than the
arithmetic of a batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rlgym.agents.common.distributions import HALF_LOG_2PI, ClampedGaussian
from rlgym.common.jit import compiled
from rlgym.envs.spaces import Array

LOW, HIGH = (np.float32(bound) for bound in ClampedGaussian.LOG_STD)
TWO, HALF = np.float32(2), np.float32(0.5)
EACH = np.float32(HALF_LOG_2PI + 2 * math.log(2))


class SquashedByHand:
    """`draw` and `draw_slope` of ClampedGaussian, on float32 tensors of the CPU."""

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        action, log_prob = np.empty(noise.shape, np.float32), np.empty(len(noise), np.float32)
        _draw(outputs.numpy(), noise.numpy(), action, log_prob)
        return torch.from_numpy(action), torch.from_numpy(log_prob)

    def draw_slope(
        self, outputs: Tensor, noise: Tensor, action: Tensor, of_action: Tensor, of_log_prob: Tensor
    ) -> Tensor:
        slope = np.empty(outputs.shape, np.float32)
        _draw_slope(
            outputs.numpy(), noise.numpy(), action.numpy(), of_action.numpy(), np.float32(of_log_prob.item()), slope
        )
        return torch.from_numpy(slope)


@compiled
def _draw(outputs: Array, noise: Array, action: Array, log_prob: Array) -> None:
    dimensions = noise.shape[1]
    for row in range(noise.shape[0]):
        total = np.float32(0)
        for i in range(dimensions):
            drawn, log_std = noise[row, i], outputs[row, dimensions + i]
            log_std = LOW if log_std < LOW else HIGH if log_std > HIGH else log_std
            u = outputs[row, i] + np.exp(log_std) * drawn
            size = abs(u)
            # log(e^u + e^-u), as torch.logaddexp has it
            total += log_std - TWO * (size + np.log1p(np.exp(-TWO * size))) + HALF * drawn * drawn + EACH
            action[row, i] = np.tanh(u)
        log_prob[row] = -total


@compiled
def _draw_slope(
    outputs: Array, noise: Array, action: Array, of_action: Array, of_log_prob: np.float32, slope: Array
) -> None:
    dimensions = noise.shape[1]
    for row in range(noise.shape[0]):
        for i in range(dimensions):
            log_std, a, of_a = outputs[row, dimensions + i], action[row, i], of_action[row, i]
            of_u = of_a + a * (TWO * of_log_prob - of_a * a)
            slope[row, i] = of_u
            within = LOW <= log_std <= HIGH
            of_log_std = np.exp(log_std) * noise[row, i] * of_u - of_log_prob
            slope[row, dimensions + i] = of_log_std if within else np.float32(0)
