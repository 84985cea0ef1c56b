"""Train a config with several seeds; print how long training takes and how accurate it is.

python -m scripts.speedrun --root FOLDER --seeds 20 [--config FILE] [--compile=true] [any setting of fit]

The time is counted as in https://github.com/KellerJordan/cifar10-airbench: the training steps, without loading the
data, compilation and evaluation. Only the log is saved.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from scipy.stats import t as student

from src.callbacks import Freeze
from src.cli import keep_freed_memory
from src.cli import main as fit
from src.protocols import HasEpochMeans


class Stopwatch(Callback):
    """Measure the seconds from the first training step to the last, after compiling the net."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(pl_module, "_compiled_call_impl", None) is not None:
            self.compile(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:  # here and not in on_train_start, in which the run folder is written
            synchronize(pl_module)
            self.started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        synchronize(pl_module)
        self.seconds = time.perf_counter() - self.started

    def compile(self, trainer: Any, pl_module: Any) -> None:
        """Run one batch of each epoch, because image sizes and frozen layers differ, and undo its effects."""
        state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        means = pl_module.train_means.snapshot() if isinstance(pl_module, HasEpochMeans) else None
        loader = trainer.train_dataloader
        freezes = [callback for callback in trainer.callbacks if isinstance(callback, Freeze)]
        for epoch in reversed(range(trainer.max_epochs or 1)):
            loader.sampler.set_epoch(epoch)
            for freeze in freezes:
                freeze.begin(epoch)
            for _ in range(3):  # CUDA graphs are recorded in the second run
                with trainer.precision_plugin.forward_context():
                    loss = pl_module.training_step(next(iter(loader)), 0)
                pl_module.zero_grad()
                loss.backward()
        pl_module.zero_grad()
        if means is not None:
            pl_module.train_means.restore(means)
        pl_module.load_state_dict(state)


def synchronize(module: LightningModule) -> None:
    """Wait until a GPU has finished its work."""
    if module.device.type == "cuda":
        torch.cuda.synchronize()


def main(owns_process: bool = False) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of the data")
    parser.add_argument("--seeds", type=int, default=20, help="number of runs")
    parser.add_argument("--config", action="append", help="config to train, cifar10_fast.yaml by default; repeatable")
    parser.add_argument("--json", type=Path, help="file to write the runs to")
    options, settings = parser.parse_known_args()
    lean = ["--trainer.enable_checkpointing=false", "--trainer.limit_val_batches=0", "--name=speedrun"]
    lean += ["--trainer.callbacks+=scripts.speedrun.Stopwatch"]
    runs = []
    for seed in range(options.seeds):
        configs = [f"--config={config}" for config in options.config or ["configs/cifar10_fast.yaml"]]
        args = ["fit", *configs, f"--seed_everything={seed}", f"--data.root={options.root}"]
        experiment = fit([*args, *lean, *settings], owns_process)
        watch = next(callback for callback in experiment.trainer.callbacks if type(callback).__name__ == "Stopwatch")
        results = json.loads((experiment.run.path / "results.json").read_text(encoding="utf-8"))
        runs.append({"seed": seed, "seconds": watch.seconds, "accuracy": results["test/accuracy"]})
        print(summary(runs), flush=True)  # noqa: T201
        if options.json:
            options.json.write_text(json.dumps(runs, indent=1), encoding="utf-8")


def summary(runs: list[dict[str, float]]) -> str:
    """Return mean and 95 % confidence interval of the accuracy, and the median time."""
    accuracies, n = [100 * run["accuracy"] for run in runs], len(runs)
    interval = f" ± {student.ppf(0.975, n - 1) * statistics.stdev(accuracies) / n**0.5:.2f}" if n > 1 else ""
    seconds = statistics.median(run["seconds"] for run in runs)
    return f"{n} runs: accuracy {statistics.mean(accuracies):.2f}{interval} % (95 %), {seconds:.2f} s of training"


if __name__ == "__main__":
    keep_freed_memory()
    main(owns_process=True)
