"""The end of a run: print the results, write results.json, what the test predicted, and the page."""

from pathlib import Path

from src import UserError
from src.analysis.outputs import FILE, Outputs, headline
from src.config.build import Experiment, epochs_done
from src.engine.signals import reached_limit
from src.runs.checkpoint import AtomicCheckpointIO
from src.runs.folder import Run, write_atomically
from src.runs.summary import Rows, metrics_table, next_commands, print_rows, run_stats_table

PAGE = "report.html"


def done(x: Experiment) -> tuple[int, int]:
    """Return the number of epochs and steps that the run has trained."""
    if x.trained:
        return x.trainer.current_epoch, x.trainer.global_step
    return epochs_done(x.stored), x.stored.get("global_step", 0)


def finish(x: Experiment, metrics: dict[str, float], seconds: float) -> None:
    """Print the results, speed, and next commands of a run; write results.json and the page."""
    parameters, batch_size = sum(p.numel() for p in x.task.parameters()), getattr(x.data, "batch_size", 0)
    stats = {"parameters": parameters, "batch_size": batch_size, "seconds": seconds}
    stats |= x.progress.speed(x.trainer.strategy.root_device)
    previous = x.run.previous_results() if x.run else ({}, "")
    rows = metrics_table(metrics, x.best) + (outputs_rows(x.outputs) if x.outputs else [])
    print_rows([("", ""), *rows, ("", ""), *run_stats_table(stats, *previous)])
    saved = x.run is not None and not x.config.trainer.fast_dev_run
    if x.run is not None and saved:
        x.run.write_results({**metrics, **stats})
    if x.run is not None and x.run.has_checkpoint():
        limit = reached_limit(x.trainer, *done(x))
        print_rows(next_commands(x.run.path, x.run_options(), limit, *x.usable()))
    if x.run is not None and saved and x.outputs:
        x.outputs.save(x.run.path / FILE)
        write_page(x.run, x.outputs)
    io = x.trainer.strategy.checkpoint_io
    if isinstance(io, AtomicCheckpointIO) and io.failed:
        raise UserError(f"training has finished, but its last checkpoint was not saved: {io.failed}")


def outputs_rows(o: Outputs) -> Rows:
    """Return the headline metric with its interval, and the most frequent errors."""
    from src.analysis.sections import confused  # only a test needs it

    value, (low, high) = headline(o)
    rows = [(f"test/{o.metric}", f"{value:10.4f}  95 % between {low:.4f} and {high:.4f}")]
    worst = confused(o, 3) if o.kind == "classes" else []
    texts = [f"{true} as {predicted}: {count} of {total}" for true, predicted, count, total in worst]
    return [*rows, *(("confused" if not i else "", f"    {text}") for i, text in enumerate(texts))]


def write_page(run: Run, outputs: Outputs, output: Path | None = None) -> None:
    """Write the page of a run, by default in its folder, and print where it is."""
    from src.analysis.run_page import run_page  # only pages need it

    file = output or run.path / PAGE
    write_atomically(file, run_page(run.path, outputs))
    print_rows([("report", str(file))])
