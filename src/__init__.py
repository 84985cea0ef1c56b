"""A PyTorch Lightning project: data, nets, tasks, callbacks and the command line that joins them."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line at once; where nobody reads any longer (``| head``, a closed terminal), go on without a word."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


class UserError(ValueError):
    """A mistake in what was typed, configured or provided: the command line prints it in one line and exits with 2."""
