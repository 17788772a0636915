"""Silences warnings of Gymnasium on versions and spaces, and of MuJoCo on models, that do not concern training. Errors
are not affected.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import gymnasium as gym


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    level = gym.logger.min_level
    gym.logger.min_level = gym.logger.ERROR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gym.logger.min_level = level


@contextlib.contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Silence MuJoCo while models are loaded: it would write to stderr and to MUJOCO_LOG.TXT."""
    try:
        import mujoco
    except ImportError:
        yield
        return
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
