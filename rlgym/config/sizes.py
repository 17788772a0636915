"""Requests for sizes that do not fit: refused with the size and the key that asks for it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from rlgym.config.memory import require_memory
from rlgym.errors import RequestError

TOO_LARGE = re.compile("memory|overflow|too large|too big|maximum allowed dimension", re.IGNORECASE)
"""Matches the errors of NumPy, torch and Python for impossible sizes and numbers."""
MAKERS = {getattr(torch, name) for name in ("empty", "zeros", "ones", "full", "rand", "randn")} | {
    getattr(torch, f"{name}_like") for name in ("empty", "zeros", "ones", "randn")
}
BUDGETS = ("steps", "tokens", "updates", "minutes", "seed")
"""Keys whose value takes no memory."""


@contextmanager
def sizes_named(given: Mapping[str, Any]) -> Iterator[None]:
    """Raise RequestError where code inside asks for more memory than is free or for an impossible size; names the
    largest number in `given` by its key."""
    try:
        with _Watched():
            yield
    except RequestError:
        raise
    except Exception as error:
        if not too_large(error):
            raise
        said = " ".join(str(error).split())
        sizes = {key: size for key, value in given.items() if (size := _largest(value)) and key not in BUDGETS}
        if not sizes:
            raise
        key = max(sizes, key=lambda name: sizes[name])
        why = said if isinstance(error, MemoryError) and "takes" in said else f"is more than can be held ({said[:120]})"
        value = str(given[key]).replace(" ", "").replace("'", "")
        raise RequestError(f"{key}={value}: {why}; lower it") from error


def too_large(error: BaseException) -> bool:
    """Whether an error is about memory or size."""
    if isinstance(error, RuntimeError | ValueError | TypeError):
        return TOO_LARGE.search(str(error)) is not None
    return isinstance(error, MemoryError | OverflowError)


class _Watched(TorchFunctionMode):
    """Checks free memory before torch allocates a large tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS and (device := str(kwargs.get("device") or "cpu")) != "meta":
            size = _numbers(args, kwargs) * (kwargs.get("dtype") or torch.float32).itemsize
            require_memory(size, device, share=0.5 if device == "cpu" else 1.0)  # others follow, such as Adam's moments
        return func(*args, **kwargs)


def _numbers(args: Any, kwargs: Any) -> int:
    """Number of elements of the tensor requested from torch.empty and its kind."""
    first = kwargs.get("size", args[0] if args else ())
    if isinstance(first, torch.Tensor):
        return first.numel()
    size = first if isinstance(first, list | tuple) else args
    return math.prod(part for part in size if isinstance(part, int))


def _largest(value: Any) -> float:
    """The largest integer in a value or list; 0 without one."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int) and not isinstance(value, bool) else 0
