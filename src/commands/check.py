"""check: sanity tests of a run before it starts."""

import sys

from src import require
from src.commands.fit_checks import check_fit
from src.config.arguments import Options
from src.config.build import Experiment


def run(options: Options, *, fit: bool = False) -> Experiment:
    """Check a model before a long run; exit with code 1 if a check fails.

    Args:
        fit: check the model: its first loss, gradients, one batch, time and memory.

    Examples:
        python -m src.cli check --config configs/digits.yaml --fit
    """
    require(fit, "check needs --fit")
    x, results = check_fit(options)
    if any(each.ok is False for each in results.values()):
        sys.exit(1)
    return x
