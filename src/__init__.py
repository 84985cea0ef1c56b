"""A PyTorch Lightning project: data, nets, tasks, callbacks and the command line that joins them."""

import os
import sys
from contextlib import suppress


def say(text: str) -> None:
    """Print a line at once; where nobody reads any longer (``| head``, a closed terminal), go on without a word."""
    try:
        print(text, flush=True)  # noqa: T201
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class UserError(ValueError):
    """A mistake in what was typed, configured or provided: the command line prints it in one line and exits with 2."""
