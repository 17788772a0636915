"""Functions compiled, by numba: for loops whose steps are too small for tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function, **options: Any) -> Function:
    """Machine code, kept beside the package for the next process, or in the user's cache folder, or not at all.

    Sums are in the order in which they are written: code that the compiler may reorder has other bits in the process
    that compiled it than in those that read it, for it optimises a function anew in each that calls it.
    """
    made: Any
    try:
        made = numba.njit(cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        made = numba.njit(error_model="numpy", **options)(function)
    return cast(Function, made)


def within(function: Function) -> Function:
    """The same, for compiled code alone to call."""
    return compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def parallel(function: Function) -> Function:
    """The same, the steps of its `prange` loops shared by numba's threads, which are torch's where both use OpenMP."""
    return compiled(function, parallel=True, no_cfunc_wrapper=True)


def is_compiled(function: Callable[..., object]) -> bool:
    """Whether an earlier process left compiled code of `function`'s module, so that the first call will not wait."""
    kept: str = cast(Any, function).stats.cache_path or ""
    return any(Path(kept).glob(f"{function.__module__.rpartition('.')[2]}.*.nbi")) if kept else False
