"""What every test runs under: no network, no window, one CPU thread."""

from __future__ import annotations

import os
import sys

import pytest

# Set before anything that reads them is imported; commands started as subprocesses inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    SDL_VIDEODRIVER="dummy",
    SDL_AUDIODRIVER="dummy",
    MPLBACKEND="Agg",
    PYGAME_HIDE_SUPPORT_PROMPT="1",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors, and tests that may share the machine: one thread. A test without torch does not import it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
