"""test: evaluate a checkpoint on the test split."""

from src.config.arguments import Options
from src.config.build import Experiment, build, find_start
from src.config.parser import parse
from src.protocols import ImageData
from src.runs.summary import merge_dataloaders, metrics_table, per_class_table, print_rows


def run(options: Options) -> Experiment:
    """Evaluate a checkpoint on the test split.

    Examples:
        python -m src.cli test --run runs/digits/version_0
    """
    return evaluate(options)


def evaluate(options: Options) -> Experiment:
    """Print the metrics of a checkpoint, in the table of validate or test."""
    x = start(options)
    evaluation = getattr(x.trainer, options.command)
    results = evaluation(x.task, datamodule=x.data, ckpt_path=x.config.ckpt_path, verbose=False)
    if x.trainer.is_global_zero and results:
        metrics = merge_dataloaders(results)
        print_rows([*metrics_table(metrics), *per_class_table(metrics)])
        print_rows([("checkpoint", str(x.config.ckpt_path))])
    return x


def start(options: Options) -> Experiment:
    """Build the experiment of a command that uses a checkpoint, which tells the data its classes and normalization."""
    config = parse(options)
    x = build(config, options.command, *find_start(options, config))
    if isinstance(x.data, ImageData) and (state := x.stored.get(type(x.data).__qualname__)):
        x.data.load_state_dict(state)
    return x
