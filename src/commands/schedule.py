"""schedule: the learning rate over the steps of a run, as a picture, before anything is trained."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src import UserError
from src.report import print_rows, save
from src.settings import Picture


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
        names = {id(p): name for name, p in getattr(pl_module, "net", pl_module).named_parameters()}
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self.groups = [[names.get(id(p), "?") for p in group["params"]] for group in groups]
        self.hidden = any(isinstance(each.scheduler, ReduceLROnPlateau) for each in trainer.lr_scheduler_configs)
        epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)  # in steps
        for step in range(1, int(steps) + 1):
            self.rates.append([float(group["lr"]) for group in groups])
            for optimizer in trainer.optimizers:
                optimizer.step()  # no gradients, no change
            for each in trainer.lr_scheduler_configs:
                every = each.frequency * (epoch if each.interval == "epoch" else 1)
                if step % every == 0 and not isinstance(each.scheduler, ReduceLROnPlateau):
                    each.scheduler.step()  # type: ignore[call-arg]
        trainer.should_stop = True

    def curves(self) -> dict[tuple[float, ...], list[str]]:
        """Return the names of all parameters that have the same learning rates."""
        found: dict[tuple[float, ...], list[str]] = {}
        for rates, names in zip(zip(*self.rates, strict=True), self.groups, strict=True):
            found.setdefault(rates, []).extend(names)
        return found


class Schedule(Picture):
    """Draws instead of training."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.drawn = Rates()
        alone = {"callbacks": [self.drawn], "num_sanity_val_steps": 0, "logger": False, "fast_dev_run": False}
        alone |= {"min_epochs": None, "min_steps": None}
        return super().instantiate_trainer(**kwargs | alone)

    def fit(self, **kwargs: Any) -> None:
        self.trainer.fit(**kwargs | {"ckpt_path": None})  # the whole run, not what is left of it
        if not self.trainer.is_global_zero:
            return
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        for rates, names in self.drawn.curves().items():
            axes.plot(rates, label=names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
        axes.set_title(
            "ReduceLROnPlateau acts on val/loss: not drawn" if self.drawn.hidden else self._get(self.config, "name")
        )
        figure.legend(fontsize="small", loc="outside right upper", title="parameters", title_fontsize="small")
        file = self.options.output or Path("schedule.png")
        save(figure, file)
        print_rows([("steps", f"{len(self.drawn.rates):,}"), ("written to", str(file))])
