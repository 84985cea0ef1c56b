"""A PyTorch Lightning project: data, nets, tasks, callbacks and the command line that joins them."""


class UserError(ValueError):
    """A mistake in what was typed, configured or provided: the command line prints it in one line and exits with 2."""
