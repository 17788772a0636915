"""Numba-compiled functions, for loops whose steps are too small for tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function, **options: Any) -> Function:
    """Compile a function, cached beside the package, else in the user's cache folder, else not at all. Floating-point
    sums keep their written order (no fastmath), so that results do not depend on whether code was compiled or loaded.
    """
    made: Any
    try:
        made = numba.njit(cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # numba finds no writable folder
        made = numba.njit(error_model="numpy", **options)(function)
    return cast(Function, made)


def within(function: Function) -> Function:
    """The same, callable from compiled code only."""
    return compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def parallel(function: Function) -> Function:
    """The same, with `prange` loops run by numba's threads, which are torch's where both use OpenMP."""
    return compiled(function, parallel=True, no_cfunc_wrapper=True)


def is_compiled(function: Callable[..., object]) -> bool:
    """Whether compiled code of `function`'s module is cached, so that the first call does not compile."""
    kept: str = cast(Any, function).stats.cache_path or ""
    return any(Path(kept).glob(f"{function.__module__.rpartition('.')[2]}.*.nbi")) if kept else False
