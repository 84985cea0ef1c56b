"""validate: evaluate a checkpoint on the validation split."""

from src.commands import test
from src.config.arguments import Options
from src.config.build import Experiment


def run(options: Options) -> Experiment:
    """Evaluate a checkpoint on the validation split.

    Examples:
        python -m src.cli validate --run runs/digits/version_0
    """
    return test.run(options)
