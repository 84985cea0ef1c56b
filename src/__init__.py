"""A PyTorch Lightning project: data, nets, tasks, callbacks and the command line that joins them."""

from pathlib import Path
from typing import Any, Literal


class UserError(ValueError):
    """Invalid input from the user: the command line prints it in one line and exits with 2."""


def require(valid: object, message: str) -> None:
    """Raise a UserError with the message, which says what, expected and got, unless the input is valid."""
    if not valid:
        raise UserError(message)


def load_run(
    path: str | Path, checkpoint: Literal["best", "last"] = "best", root: str | Path | None = None, trust: bool = False
) -> tuple[Any, Any]:
    """Return the trained task of a run folder and its data module; see ``src.config.load.load_run``."""
    from src.config.load import load_run as load  # here, because torch and Lightning take seconds to import

    return load(path, checkpoint, root, trust)
