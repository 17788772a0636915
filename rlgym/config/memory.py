"""Free memory, and the refusal of what does not fit, before it is taken.

Linux grants memory that it does not have and ends a process that uses it: waiting for an error is too late. Imports no
torch, since worker processes of environments import this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that can still be taken on a device."""
    if str(device).startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return int(psutil.virtual_memory().available)


def resident_memory() -> int:
    """Bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def require_memory(size: float, device: torch.device | str = "cpu", share: float = 1.0) -> None:
    """MemoryError, with the sizes, where `size` bytes are more than a `share` of what is free."""
    if size > (1 << 26) and size > share * (free := free_memory(device)):
        part = "" if share == 1.0 else "a part of it alone "
        raise MemoryError(f"{part}takes {gigabytes(size)}, and {gigabytes(free)} are free")


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 1e18 else f"{size:.1e} bytes"
