"""Functions in machine code, by numba: for loops whose steps are too small for tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Machine code, kept beside the package for the next process, or in the user's cache folder, or not at all."""
    made: Any
    try:
        made = numba.njit(cache=True)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        made = numba.njit(function)
    return cast(Function, made)
