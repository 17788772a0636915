"""States of random generators as plain tensors and JSON, so that a checkpoint needs no pickle."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def generator_state(generator: np.random.Generator | torch.Generator) -> Any:
    """The state: a tensor for torch's generators, a dict of (large) integers for NumPy's."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return numpy_state(generator)


def load_generator_state(generator: np.random.Generator | torch.Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        load_numpy_state(generator, state)


def numpy_state(generator: np.random.Generator) -> dict[str, Any]:
    """The bit generator's state, arrays as lists."""
    state: dict[str, Any] = _plain(dict(generator.bit_generator.state))
    return state


def load_numpy_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Set `generator` to `state`; both must be of one kind of bit generator."""
    generator.bit_generator.state = state


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
