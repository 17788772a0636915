"""The choice between float32 and bfloat16, and the measured rate of matrix products."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

MANY = 1e10
"""FLOP of an update from which on a CPU's bf16 units pay off."""
UNITS = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")
"""Their names in torch.cpu.get_capabilities."""
BUDGET = 0.1
"""Approximate seconds per measurement."""


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the device in square matrix products, measured in about 0.1 s. The size grows until one product takes
    10 ms (2 ms on a GPU), so that a CPU without bf16 units, a hundred times slower, is measured as quickly as a fast
    one.
    """
    enough, largest = (0.002, 8_192) if device.type == "cuda" else (0.01, 2_048)
    started = time.perf_counter()
    size, rate = 64, 0.0
    while True:
        a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        _seconds(a, b, out)  # the first call of a size includes set-up
        took = min(_seconds(a, b, out) for _ in range(3))  # the machine may be busy for a while
        rate = max(rate, 2 * size**3 / took)
        if took >= enough or size == largest or time.perf_counter() - started > BUDGET / 2:
            break
        size *= 2
    while time.perf_counter() - started + took < BUDGET:
        took = _seconds(a, b, out)
        rate = max(rate, 2 * size**3 / took)
    return rate


def _seconds(a: Tensor, b: Tensor, out: Tensor) -> float:
    _wait(a.device)
    started = time.perf_counter()
    torch.mm(a, b, out=out)
    _wait(a.device)
    return max(time.perf_counter() - started, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        backend: Any = torch.get_device_module(device)
        backend.synchronize()


def choose(device: torch.device, wanted: str, flops: float) -> torch.dtype:
    """The dtype of matrix products, for torch.autocast: `wanted` (fp32, bf16), or with auto the faster one. Chosen by
    the processor's units, not by timing, so that a command always makes the same choice: bf16 on a GPU that has it, and
    on a CPU that has it (AVX-512 BF16, AMX, or Arm's) where an update takes many `flops`: on a small one the casts cost
    what the products save (Qwen3 of 4 x 128, 8 GFLOP: 109 ms against 106 compiled; BERT of 4 x 256, 22 GFLOP: 244
    against 299; GPT-2 of 6 x 384, 155 GFLOP: 1,224 against 1,529; two threads).
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bf16" else torch.float32
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        faster = flops >= MANY and any(units.get(name) for name in UNITS)
    return torch.bfloat16 if faster else torch.float32
