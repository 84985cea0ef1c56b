"""Train a config with several seeds and print how long training took and how accurate it ended.

python -m scripts.speedrun --root FOLDER --seeds 20 [--config FILE] [--compile=true] [any setting of fit]

Seconds are counted as https://github.com/KellerJordan/cifar10-airbench does: the steps of training, without loading the
data set, compiling and evaluation. Nothing is saved meanwhile but the log.
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
from src.cli import main as run
from src.memory import keep_freed


class Stopwatch(Callback):
    """Seconds from the first step to the last, the net having been compiled before."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(pl_module, "_compiled_call_impl", None) is not None:
            self.compile(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:  # now that the run is written down
            finished(pl_module)
            self.started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        finished(pl_module)
        self.seconds = time.perf_counter() - self.started

    def compile(self, trainer: Any, pl_module: Any) -> None:
        """Go forward and backward with a batch of each epoch, as sizes and frozen layers differ, and forget it."""
        state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        loader = trainer.train_dataloader
        freezes = [callback for callback in trainer.callbacks if isinstance(callback, Freeze)]
        for epoch in reversed(range(trainer.max_epochs or 1)):
            loader.sampler.set_epoch(epoch)
            for freeze in freezes:
                freeze.begin(epoch)
            with trainer.precision_plugin.forward_context():
                loss = pl_module.training_step(next(iter(loader)), 0)
            loss.backward()
        pl_module.zero_grad()
        pl_module.train_means.take("", torch.clone)
        pl_module.load_state_dict(state)


def finished(module: LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of the data")
    parser.add_argument("--seeds", type=int, default=20, help="number of runs")
    parser.add_argument("--config", default="configs/cifar10_fast.yaml")
    parser.add_argument("--json", type=Path, help="file to write the runs to")
    options, typed = parser.parse_known_args()
    alone = ["--trainer.enable_checkpointing=false", "--trainer.limit_val_batches=0", "--name=speedrun"]
    callbacks = "--trainer.callbacks+=scripts.speedrun.Stopwatch"
    runs = []
    for seed in range(options.seeds):
        settings = [f"--seed_everything={seed}", f"--data.root={options.root}", *alone, callbacks, *typed]
        cli = run(["fit", f"--config={options.config}", *settings])
        watch = next(each for each in cli.trainer.callbacks if type(each).__name__ == "Stopwatch")
        results = json.loads((cli.run.path / "results.json").read_text())
        runs.append({"seed": seed, "seconds": watch.seconds, "accuracy": results["test/accuracy"]})
        print(summary(runs), flush=True)  # noqa: T201
        if options.json:
            options.json.write_text(json.dumps(runs, indent=1))


def summary(runs: list[dict[str, float]]) -> str:
    accuracies, n = [100 * each["accuracy"] for each in runs], len(runs)
    interval = f" ± {student.ppf(0.975, n - 1) * statistics.stdev(accuracies) / n**0.5:.2f}" if n > 1 else ""
    seconds = statistics.median(each["seconds"] for each in runs)
    return f"{n} runs: accuracy {statistics.mean(accuracies):.2f}{interval} % (95 %), {seconds:.2f} s of training"


if __name__ == "__main__":
    keep_freed()
    main()
