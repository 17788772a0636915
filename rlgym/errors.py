"""The two ways a command ends badly. Each carries one line for the person; the exit code follows from the class."""


class RequestError(Exception):
    """The request is wrong (exit 2): names the key, the value and what would do. Nothing has been written."""

    exit_code = 2


class TrainingError(Exception):
    """Training failed (exit 3): non-finite numbers or an environment's fault. The last good checkpoint is kept."""

    exit_code = 3


class CheckpointError(Exception):
    """A checkpoint is incomplete, altered or of another kind; the message names the file and what is wrong with it."""
