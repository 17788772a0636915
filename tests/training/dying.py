"""A process that dies by SIGKILL at a chosen moment, and the ways in which the disk fails."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch

MOMENTS = (
    (os, "mkdir"),
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "unlink"),
    (os, "rmdir"),
    (shutil, "rmtree"),
    (safetensors.torch, "save_file"),
)
"""Whatever a save does to the disk goes through one of these."""


def die_at(moment: int, action: Callable[[], Any]) -> bool:
    """Run `action` in a child process that kills itself at `moment`: before (even) or right after (odd) the n-th call
    of MOMENTS. False when the action ended before it came to that."""
    child = os.fork()
    if child == 0:
        calls = 0

        def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                mine, calls = calls, calls + 1
                if moment == 2 * mine:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return function(*args, **kwargs)
                finally:
                    if moment == 2 * mine + 1:
                        os.kill(os.getpid(), signal.SIGKILL)

            return call

        for module, name in MOMENTS:
            setattr(module, name, deadly(getattr(module, name)))
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the action itself failed"
    return False


def fail(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int = 0) -> None:
    """Let the n-th call of a function fail as on a full disk; those before and after it work."""
    real, calls = getattr(module, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        mine, calls = calls, calls + 1
        if mine == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)
