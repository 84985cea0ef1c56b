"""schedule: the learning rate over the steps of a run, as a picture, before anything is trained."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src import UserError
from src.report import print_rows
from src.settings import Settings


class Rates(Callback):
    """Step the schedules through a whole run in place of training."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []  # in each step of each group
        self.groups: list[list[str]] = []  # names of the parameters
        self.hidden = False  # whether a part of it depends on the validation loss

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UserError("the run has no end, so its schedule none either: set --trainer.max_epochs")
        names = {id(p): name for name, p in pl_module.named_parameters()}
        (optimizer,) = trainer.optimizers
        for group in optimizer.param_groups:
            self.groups.append([names[id(p)] for p in group["params"]])
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.hidden = any(isinstance(schedule, ReduceLROnPlateau) for schedule in schedules)
        for _ in range(int(steps)):
            self.rates.append([float(group["lr"]) for group in optimizer.param_groups])
            optimizer.step()  # no gradients, no change
            for schedule in schedules:
                if not isinstance(schedule, ReduceLROnPlateau):
                    schedule.step()
        trainer.should_stop = True

    def curves(self) -> dict[tuple[float, ...], list[str]]:
        """Return the names of all parameters that have the same learning rates."""
        found: dict[tuple[float, ...], list[str]] = {}
        for rates, names in zip(zip(*self.rates, strict=True), self.groups, strict=True):
            found.setdefault(rates, []).extend(names)
        return found


class Schedule(Settings):
    """Draws instead of training."""

    def saves(self, settings: Any) -> bool:  # noqa: ARG002
        return False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.drawn = Rates()
        alone = {"callbacks": [self.drawn], "num_sanity_val_steps": 0, "logger": False, "fast_dev_run": False}
        return super().instantiate_trainer(**kwargs | alone)

    def fit(self, **kwargs: Any) -> None:
        self.trainer.fit(**kwargs)
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        for rates, names in self.drawn.curves().items():
            axes.plot(rates, label=names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
        axes.set_title("ReduceLROnPlateau acts on val/loss: not drawn" if self.drawn.hidden else self.options.config[0])
        figure.legend(fontsize="small", loc="outside right upper", title="parameters", title_fontsize="small")
        file = self.options.output or Path("schedule.png")
        save(figure, file)
        print_rows([("steps", f"{len(self.drawn.rates):,}"), ("written to", str(file))])


def save(figure: Figure, file: Path) -> None:
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:  # the latter for an ending that is no kind of picture
        raise UserError(f"cannot write {file}: {error}; name another file with --output") from None
