"""The errors of commands: each has a one-line message and determines the exit code."""


class RequestError(Exception):
    """A wrong request (exit 2): names the key, the value and what would do. Nothing has been written."""

    exit_code = 2


class TrainingError(Exception):
    """Training failed (exit 3): non-finite numbers or an environment's fault. The last good checkpoint is kept."""

    exit_code = 3


class CheckpointError(Exception):
    """An incomplete, altered or incompatible checkpoint; the message names the file and the problem."""
