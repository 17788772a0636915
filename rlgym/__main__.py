"""`python -m rlgym`."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> int:
    """Run the command of `sys.argv`. Ctrl-C prints one line instead of a traceback, even during imports."""
    before = signal.signal(signal.SIGINT, _interrupted)
    from rlgym.cli.main import main as command

    signal.signal(signal.SIGINT, before)
    try:
        return command()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the exit code is decided


def _interrupted(number: int, frame: Any) -> None:
    os.write(2, b"rlgym: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
