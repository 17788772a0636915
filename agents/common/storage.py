"""The dtypes in which tensors store what environments return."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def storage_dtype(dtype: np.dtype[np.generic]) -> torch.dtype:
    """Bytes stay bytes (images), choices are int64, everything else float32."""
    if dtype == np.uint8:
        return torch.uint8
    return torch.float32 if np.issubdtype(dtype, np.floating) else torch.int64


def numpy_dtype(tensor: Tensor) -> np.dtype[np.generic]:
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype
