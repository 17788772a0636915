"""Resolves `device=auto`, `compile=auto` and an empty `threads`."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits

from rlgym.config.schema import DEVICE, DEVICES
from rlgym.errors import RequestError

if TYPE_CHECKING:
    from rlgym.config.schema import RootConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's mallopt parameters (malloc.h): thresholds in bytes for returning free memory and for mapping a block
separately."""
MIB_32 = 32 << 20
"""glibc's maximum."""
MINUTES_THAT_REPAY_COMPILING = 5.0
"""Runs with fewer `minutes` are not compiled: on a CPU compiling takes up to a minute and saves a fifth."""


def pick_device(wanted: str, heavy: bool = False) -> torch.device:
    """The device that `wanted` names: auto, cpu, cuda, cuda:N or mps.

    `auto` takes a GPU only for `heavy` work (images, transformers): a small network is faster on the CPU, where a call
    costs less than a kernel launch.
    """
    if wanted == "auto":
        return torch.device("cuda" if heavy and torch.cuda.is_available() else "cpu")
    if not re.fullmatch(DEVICE, wanted):
        raise RequestError(f"device={wanted}: must be {DEVICES}")
    device = torch.device(wanted)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RequestError(f"device={wanted}: no CUDA GPU can be used here; device=cpu or device=auto would do")
        if (device.index or 0) >= torch.cuda.device_count():
            raise RequestError(f"device={wanted}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RequestError("device=mps: no Apple GPU can be used here; device=cpu or device=auto would do")
    return device


def resolve_auto(config: RootConfig, device: torch.device, repays: bool, threads: int) -> None:
    """Resolve the config's automatic choices in place, and apply the thread count. `repays`: whether compiling pays off
    within the budget; `threads`: how many threads the work can use on a CPU.
    """
    config.device = str(device)
    if config.threads is None:
        config.threads = max(1, min(threads, os.cpu_count() or 1))
    torch.set_num_threads(config.threads)
    threadpool_limits(config.threads, user_api="blas")  # NumPy's and SciPy's own
    keep_freed_memory()
    if config.compile == "auto":
        config.compile = "on" if repays and not ends_soon(config) and can_compile(device) else "off"
    elif config.compile == "on" and not can_compile(device):
        raise RequestError("compile=on: torch.compile needs a C++ compiler (g++ or clang++) here; compile=off would do")


def ends_soon(config: RootConfig) -> bool:
    """Whether `minutes` end the run before compiling could pay off."""
    return config.minutes is not None and config.minutes < MINUTES_THAT_REPAY_COMPILING


def keep_freed_memory() -> None:
    """Make glibc keep freed memory in the process, which avoids page faults: a search in 1,024 games, which allocates
    and frees tensors of megabytes, takes 1.5 times as long without it."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MIB_32)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def seed(device: torch.device, number: int) -> None:
    """`torch.manual_seed` for the CPU and this device only: seeding every kind of device costs 0.8 ms."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def can_compile(device: torch.device) -> bool:
    return device.type == "cuda" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def hardware(device: torch.device) -> dict[str, object]:
    """The manifest's entries about the device."""
    if device.type != "cuda":
        return {"device": str(device), "threads": torch.get_num_threads(), "cuda": None}
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "cuda": {"version": torch.version.cuda, "gpu": torch.cuda.get_device_name(device)},
    }
