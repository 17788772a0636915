"""Writes safetensors files, or links them from an earlier checkpoint with the same tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(_packed(tensors), file)
    except SafetensorError as error:  # the library's error for a full disk
        raise OSError(f"{file.name}: {error}") from error
    fsync_file(file)


def link_equal(before: Path, file: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Hard-link an earlier checkpoint's file if it holds the same tensors."""
    from safetensors import SafetensorError, safe_open

    if not before.exists():
        return False
    try:
        with safe_open(before, "pt") as saved:
            if set(saved.keys()) != set(tensors):
                return False
            for key, tensor in tensors.items():
                if not _same_bits(saved.get_tensor(key), tensor.detach().cpu()):
                    return False
        os.link(before, file)
    except (SafetensorError, OSError):  # damaged, or a file system without links
        return False
    return True


def _same_bits(a: Tensor, b: Tensor) -> bool:
    from torch import equal, uint8

    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return equal(a.reshape(-1).contiguous().view(uint8), b.reshape(-1).contiguous().view(uint8))


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert to what the format can store: on the CPU, contiguous, without shared memory. Values are equal, strides
    may differ."""
    packed: dict[str, Tensor] = {}
    storages = set()
    for key, tensor in tensors.items():
        dense = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        storage = dense.untyped_storage().data_ptr()
        packed[key] = dense.clone() if storage in storages else dense
        storages.add(storage)
    return packed


def fsync_file(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
