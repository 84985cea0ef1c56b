"""What a command prints, in plain text that fits in 80 columns, and where the results of a run come from."""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from math import isclose, isnan
from pathlib import Path
from typing import Any, TextIO

from src import UserError
from src.protocols import Describes, HasEpochMeans, Pretrained, Resumable, WarmedUp
from src.runs.folder import digest

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")
STAGED = re.compile("(val|test|reference)/.")  # names of metrics that this project logs
Rows = list[tuple[str, str]]  # what print_rows prints: names and values


def echo(text: str, stream: TextIO | None = None) -> None:
    """Print a line and flush; print nothing more once the reader is gone (``| head``, a closed terminal).

    Characters that the stream cannot encode, such as those of a file name, are printed as escapes.
    """
    try:
        encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


def print_rows(rows: Rows) -> None:
    """Print names and values in two columns; a row without name and value is a blank line, no rows print nothing."""
    if rows:
        width = max(len(name) for name, _ in rows)
        echo("\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows))


def end_of(name: str, length: int) -> str:
    return name if len(name) <= length else f"...{name[3 - length :]}"


def start_notes(trainer: Any, resumed: Path | None) -> Rows:
    """Return notes to print when training starts: the resumed run, and what may be unexpected."""
    data = getattr(trainer, "datamodule", None)
    rows: Rows = data.describe_splits() if isinstance(data, Describes) else []
    if resumed:
        rows += [("resumed", f"{resumed}, after step {trainer.global_step}")]
        rows += [("", "with the settings of its config.yaml and those typed")]
    task, loader = trainer.lightning_module, trainer.train_dataloader
    stateful = {"DataLoader": isinstance(loader, Resumable), "LightningModule": isinstance(task, HasEpochMeans)}
    if lacking := " and ".join(name for name, has_state in stateful.items() if not has_state):
        kept = [name for name in ("generator", "persistent_workers") if getattr(loader, name, None)]
        exact = f"not exactly, because of its {kept[0]}" if kept else "exactly only from the end of an epoch"
        verb = "have" if " and " in lacking else "has"
        rows += [("note", f"this {lacking} {verb} no mid-epoch state:"), ("", f"an interrupted run resumes {exact}")]
    notes = [task.note] if isinstance(task, Pretrained) else []
    for text in [*notes, *(getattr(callback, "note", "") for callback in trainer.callbacks)]:
        rows += [("" if i else "note", line) for i, line in enumerate(text.splitlines())]
    steps, warmup = trainer.estimated_stepping_batches, task.warmup_steps if isinstance(task, WarmedUp) else 0
    if isinstance(warmup, int) and 0 < steps <= warmup and not trainer.fast_dev_run:
        rows += [("note", f"warmup_steps ({warmup}) >= run length ({steps} steps):")]
        rows += [("", "the learning rate never leaves warm-up")]
    return rows


def complete_rows(epochs: int, steps: int, limit: str, changed: bool) -> Rows:
    """Return what to print for a run that has reached the Trainer setting ``limit``, or that a callback has ended."""
    how = f"extend with --trainer.{limit}=N" if limit else "a callback stopped it: change it in config.yaml"
    rows = [("complete", f"{epochs} epoch{'s' if epochs != 1 else ''}, {steps} steps; {how}")]
    return rows + ([("note", "settings other than those it was trained with were not used")] if changed else [])


def merge_dataloaders(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Merge the metrics of all DataLoaders; accuracies of several become accuracy[0], accuracy[1]."""
    return {re.sub(r"/dataloader_idx_(\d+)$", r"[\1]", key): value for each in results for key, value in each.items()}


def metrics_table(metrics: Mapping[str, float], best: Any = None) -> Rows:
    """Return one row for each metric, with columns for validation, test and reference; not for metrics per class.

    The epoch of the ``best`` checkpoint follows, and a note if its metric is not what it was when it was saved.
    """
    staged = {tuple(key.split("/")): metrics[key] for key in metrics if STAGED.match(key) and key.count("/") == 1}
    others = [(key, cell(value)) for key, value in metrics.items() if not STAGED.match(key)]  # of foreign modules
    epoch = getattr(best, "epoch", 0)
    rows = [("best epoch", f"{epoch:>10}")] if epoch else []
    return table("metric", staged) + others + rows + changed_note(best, metrics)


def per_class_table(metrics: Mapping[str, float]) -> Rows:
    """Return one row for each class, with a column for each metric that has a value per class."""
    each = {tuple(key.split("/", 2)[1:]): metrics[key] for key in metrics if STAGED.match(key) and key.count("/") >= 2}
    return table("class", each)


def table(corner: str, values: Mapping[tuple[str, ...], float]) -> Rows:
    """Return a table with a head, given the value of each (column, row); no values make no rows."""
    columns, names = dict.fromkeys(column for column, _ in values), dict.fromkeys(name for _, name in values)
    rows = [(name, "".join(cell(values.get((column, name))) for column in columns)) for name in names]
    return [(corner, "".join(f"{column:>10}" for column in columns)), *rows] if values else []


def cell(value: float | None) -> str:
    return f"{'-' if value is None or isnan(value) else format(value, '.4f'):>10}"


def changed_note(best: Any, metrics: Mapping[str, float]) -> Rows:
    """Return a note if the monitored metric of the best checkpoint is no longer what it was when it was saved."""
    then, now = getattr(best, "score", None), metrics.get(getattr(best, "monitor", ""))
    if then is None or now is None or isclose(then, now, rel_tol=1e-5, abs_tol=1e-6):
        return []
    text = f"{best.monitor} was {then:.4f} when the best checkpoint was saved: its validation"
    return [("note", text), ("", "draws random numbers, or its data changed; compare with care")]


def run_stats_table(stats: Mapping[str, float], previous: Mapping[str, float], previous_name: str) -> Rows:
    """Return the cost of a run, with speed and memory also as multiples of the previous run's."""
    unknown = ("batch_size", "samples_per_second")  # of a stream or a module without them
    shown = {name: f"{value:,}" for name, value in stats.items() if value or name not in unknown}
    width = max(map(len, shown.values()), default=0)
    for name in ("milliseconds_per_step", "samples_per_second", "peak_memory_mib"):
        if stats.get(name) and previous.get(name):
            shown[name] = f"{shown[name]:<{width}}  {stats[name] / previous[name]:.2f} x {previous_name}"
    return [(name.replace("_", " ").replace("mib", "MiB"), value) for name, value in shown.items()]


def cli_command() -> str:
    """Return how this program was started; after ``--``, torchrun does not take ``--run`` for an option of its own."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return "python -m src.cli"
    return f"torchrun --nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', 1)} -m src.cli --"


def next_commands(
    run: Path, run_args: str, limit: str, test: bool = True, predict: str | None = " --images FILE"
) -> Rows:
    """Return the commands that use a finished run, named by ``run_args``; the Trainer setting ``limit`` extends it.

    ``test`` tells whether the run can be tested; ``predict`` are the options of predict, None if it cannot predict.
    """
    command, plain = cli_command(), "python -m src.cli"  # predict runs in one process
    extend = f" --trainer.{limit}=N" if limit else f", with other callbacks in {run}/config.yaml"
    rows = [("", ""), ("run", str(run)), ("extend", f"{command} fit {run_args}{extend}")]
    rows += [("test", f"{command} test {run_args}")] if test else []
    return rows + ([("use", f"{plain} predict {run_args}{predict}")] if predict is not None else [])


def save_figure(figure: Any, file: Path) -> None:
    """Write a matplotlib figure; refuse a file that cannot be written or whose suffix is not an image format."""
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {file}: {reason}; choose another file with --output") from None


def provenance(config: Path, split_hash: str | None, job: str) -> dict[str, Any]:
    """Return the command, scheduler job, code, config, data split and machine that the results of a run come from."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.orig_argv,
        "job": job,
        "config_sha256": digest(config),
        "lock_sha256": digest(ROOT / "requirements.lock"),
        "split": split_hash,
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain")),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "hardware": {"machine": platform.platform(), "cpu": processor(), "cores": os.cpu_count(), "gpus": gpus},
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"^model name.*: (.*)", info.read_text(encoding="utf-8"), re.M) if info.is_file() else None
    return cpu[1] if cpu else platform.processor()


def git(*args: str) -> str | None:
    """Return the output of a git command, or None outside a repository or without git."""
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, check=True)
        return done.stdout.decode(errors="replace").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
