"""What every test runs under: no network, no window, one CPU thread."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

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
    OPENBLAS_NUM_THREADS="1",  # NumPy's and SciPy's products
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors, and tests that may share the machine: one thread. A test without torch does not import it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def blank_plots() -> Iterator[None]:
    """A run's curves as blank pictures: to draw them takes longer than a tiny run. A module that looks at them has a
    fixture of this name that does nothing."""

    def blank(path: Path, *_: object) -> Path:
        from PIL import Image

        path.parent.mkdir(exist_ok=True)
        Image.new("L", (1, 1)).save(path)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlgym.training.curves._figure", blank)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the module's own for prepared data, which commands take from the environment."""
    from tests.ssl import tiny

    with tiny.cache(tmp_path_factory.mktemp("cache")) as folder:
        yield folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small text files to learn from."""
    from tests.ssl import tiny

    return tiny.write_text(tmp_path_factory.mktemp("corpus") / "text")
