"""schedule: draw the learning rate over the steps of a run."""

from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src import require
from src.config.arguments import Options
from src.config.build import Experiment, build
from src.config.parser import parse
from src.runs.summary import print_rows, save_figure


def run(options: Options, *, output: Path | None = None) -> Experiment:
    """Draw the learning rate over the steps of a run, without training.

    Args:
        output: the picture; by default schedule.png.

    Examples:
        python -m src.cli schedule --config configs/digits.yaml
    """
    config, file = parse(options), output or Path("schedule.png")
    config.trainer.update(Namespace(callbacks=None, num_sanity_val_steps=0, logger=False, fast_dev_run=False))
    config.trainer.update(Namespace(min_epochs=None, min_steps=None))
    x, recorder = build(config, "schedule"), LRRecorder()
    x.trainer.callbacks = [recorder]  # type: ignore[attr-defined]
    x.trainer.fit(x.task, datamodule=x.data)
    if x.trainer.is_global_zero:
        plateau = any(isinstance(each.scheduler, ReduceLROnPlateau) for each in x.trainer.lr_scheduler_configs)
        title = "without ReduceLROnPlateau, which reacts to val/loss" if plateau else config.name
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        for lrs, names in recorder.curves().items():
            axes.plot(lrs, label=names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None), title=title)
        figure.legend(fontsize="small", loc="outside right upper", title="parameters", title_fontsize="small")
        save_figure(figure, file)
        print_rows([("steps", f"{len(recorder.lrs):,}"), ("written to", str(file))])
    return x


class LRRecorder(Callback):
    """Step the schedules through a complete run instead of training, and record the learning rates."""

    def __init__(self) -> None:
        self.lrs: list[list[float]] = []  # (steps, parameter groups)
        self.groups: list[list[str]] = []  # names of the parameters

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        require(steps != float("inf"), "the run length is unknown: set --trainer.max_epochs")
        names = {id(p): name for name, p in getattr(pl_module, "net", pl_module).named_parameters()}
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self.groups = [[names.get(id(p), "?") for p in group["params"]] for group in groups]
        epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)  # in optimizer steps
        for step in range(1, int(steps) + 1):
            self.lrs.append([float(group["lr"]) for group in groups])
            for optimizer in trainer.optimizers:
                optimizer.step()  # changes nothing, because there are no gradients
            for each in trainer.lr_scheduler_configs:
                period = each.frequency * (epoch if each.interval == "epoch" else 1)
                if step % period == 0 and not isinstance(each.scheduler, ReduceLROnPlateau):
                    each.scheduler.step()  # type: ignore[call-arg]
        trainer.should_stop = True

    def curves(self) -> dict[tuple[float, ...], list[str]]:
        """Map each curve of learning rates to the names of its parameters."""
        found: dict[tuple[float, ...], list[str]] = {}
        for lrs, names in zip(zip(*self.lrs, strict=True), self.groups, strict=True):
            found.setdefault(lrs, []).extend(names)
        return found
