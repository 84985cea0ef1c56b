"""A PyTorch Lightning project: data, nets, tasks, callbacks and the command line that joins them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.config.load import load_run as load_run


class UserError(ValueError):
    """Invalid input from the user: the command line prints it in one line and exits with 2."""


def __getattr__(name: str) -> Any:
    """Import ``load_run`` when it is first used, because it needs torch and Lightning, which take seconds."""
    if name != "load_run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.config.load import load_run

    return load_run
