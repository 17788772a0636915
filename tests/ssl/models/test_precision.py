"""The measured rate beside a product timed here, and what follows from rates."""

from __future__ import annotations

import time

import pytest
import torch

from rlgym.ssl.models import precision

CPU = torch.device("cpu")


def test_the_rate_is_what_a_product_reaches_and_is_measured_quickly() -> None:
    started = time.perf_counter()
    rate = precision.matrix_rate(CPU, torch.float32)
    assert time.perf_counter() - started < 1.0  # 0.1 on a quiet machine
    a = torch.randn(512, 512)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    assert 0.3 < rate / (2 * 512**3 / best) < 3  # a shared machine


def test_a_slow_dtype_is_found_out_quickly() -> None:
    """bf16 without units for it reaches 1 GFLOP/s or three; so do integers on any CPU."""
    started = time.perf_counter()
    assert precision.matrix_rate(CPU, torch.int64) > 0
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    ("wanted", "units", "flops", "dtype"),
    [
        ("auto", {"avx512_bf16": True}, 2e11, torch.bfloat16),
        ("auto", {"amx_bf16": True}, 2e11, torch.bfloat16),
        ("auto", {"avx512_bf16": True}, 4e9, torch.float32),
        ("auto", {"avx512_bf16": False, "avx2": True}, 2e11, torch.float32),
        ("fp32", {"avx512_bf16": True}, 2e11, torch.float32),
        ("bf16", {}, 1.0, torch.bfloat16),
    ],
)
def test_bf16_is_taken_where_the_cpu_has_it_and_the_work_is_large(
    monkeypatch: pytest.MonkeyPatch, wanted: str, units: dict[str, bool], flops: float, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert precision.choose(CPU, wanted, flops) == dtype
