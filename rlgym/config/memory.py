"""Checks of free memory before allocating. Linux overcommits memory and kills the process that uses it, so waiting for
an error is too late. Imports no torch, since worker processes of environments import this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch


def free_memory(device: torch.device | str = "cpu") -> int:
    """Free memory of a device, in bytes."""
    if str(device).startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return int(psutil.virtual_memory().available)


def resident_memory() -> int:
    """Resident memory of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)


def require_memory(size: float, device: torch.device | str = "cpu", share: float = 1.0) -> None:
    """Raise MemoryError, with the sizes, where `size` bytes exceed a `share` of the free memory."""
    if size > (1 << 26) and size > share * (free := free_memory(device)):
        part = "" if share == 1.0 else "a part of it alone "
        raise MemoryError(f"{part}takes {gigabytes(size)}, and {gigabytes(free)} are free")


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 1e18 else f"{size:.1e} bytes"
