"""Lightning gets an optimizer and schedules that fit each other, the net and the run."""

import csv
import io
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader

from src import UserError, optim
from src.cli import main
from src.data import Digits
from src.nets import SmallCNN
from src.optim import Cosine, Linear, MultiStep, OneCycle, Polynomial, Step, optimizer_and_schedule, with_warmup

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
LR = 0.2


def sgd() -> SGD:
    return SGD([nn.Parameter(torch.ones(2))], lr=LR)


def rates(schedule, steps: int) -> list[float]:
    """Return the learning rate of each step."""
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def run(schedule, warmup_steps: int, total_steps: float, steps: int) -> list[float]:
    (made,) = with_warmup(sgd(), schedule, warmup_steps, total_steps)
    return rates(made, steps)


SCHEDULES = [
    Cosine,
    partial(Cosine, cycles=2),
    Linear,
    Polynomial,
    optim.Exponential,
    Step,
    partial(MultiStep, milestones=[0.5, 0.75]),
    OneCycle,
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_rises_linearly_and_the_schedule_follows_for_the_rest_of_the_run(schedule):
    found, alone = run(schedule, 4, 24, 30), run(schedule, 0, 20, 26)
    assert found[:4] == pytest.approx([alone[0] * share for share in (0.2, 0.4, 0.6, 0.8)])
    assert found[4:] == pytest.approx(alone)


def test_a_schedule_knows_the_length_of_the_run():
    assert run(Linear, 0, 20, 21) == pytest.approx([LR * (1 - step / 20) for step in range(21)])


def test_schedules_of_torch_count_their_own_steps_after_the_warm_up():
    found = run(partial(StepLR, step_size=3), 2, 100, 9)
    assert found == pytest.approx([LR * share for share in (1 / 3, 2 / 3, 1, 1, 1, 0.1, 0.1, 0.1, 0.01)])


def test_a_warm_up_alone_ends_at_the_base_rate():
    assert run(None, 3, 10, 6) == pytest.approx([LR * share for share in (0.25, 0.5, 0.75, 1, 1, 1)])


def test_a_run_without_end_keeps_the_base_rate():
    assert run(Cosine, 0, float("inf"), 3) == pytest.approx([LR] * 3)


def test_no_schedule_and_no_warm_up_is_no_schedule():
    assert with_warmup(sgd(), None, 0, 10) == []


@pytest.mark.parametrize("warmup_steps", [0, 5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_continued_run_that_became_longer_follows_its_new_length(schedule, warmup_steps):
    (first,) = with_warmup(sgd(), schedule, warmup_steps, 20)
    rates(first, 10)
    stored = io.BytesIO()
    torch.save([first.optimizer.state_dict(), first.state_dict()], stored)
    stored.seek(0)
    for_optimizer, for_schedule = torch.load(stored, weights_only=True)
    (second,) = with_warmup(sgd(), schedule, warmup_steps, 40)
    second.optimizer.load_state_dict(for_optimizer)
    second.load_state_dict(for_schedule)
    assert rates(second, 30)[1:] == pytest.approx(run(schedule, warmup_steps, 40, 40)[11:])


def test_a_negative_warm_up_is_refused():
    with pytest.raises(UserError, match="warmup_steps must be at least 0, got -1"):
        with_warmup(sgd(), Cosine, -1, 10)


class Stuck(LightningModule):
    """A validation loss that stays as it is, so that each epoch after the first is a bad one."""

    def __init__(self, warmup_steps: int) -> None:
        super().__init__()
        self.net, self.warmup_steps = nn.Linear(2, 2), warmup_steps

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        return self.net(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/loss", torch.ones(()))

    def configure_optimizers(self):
        plateau = partial(ReduceLROnPlateau, factor=0.5, patience=0)
        return optimizer_and_schedule(self.net, partial(SGD, lr=LR), plateau, self.warmup_steps, 30)


def rates_of_trainer(model: LightningModule, **settings) -> list[float]:
    found = []
    note = LambdaCallback(on_train_batch_start=lambda run, *_: found.append(run.optimizers[0].param_groups[0]["lr"]))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[note], **quiet, **settings)
    loader = DataLoader(torch.randn(20, 2), batch_size=4)
    trainer.fit(model, loader, loader)
    return found


@pytest.mark.parametrize("warmup_steps", [0, 3, 17])
def test_a_plateau_reduces_the_rate_while_a_warm_up_raises_it(warmup_steps):
    found = rates_of_trainer(Stuck(warmup_steps), max_epochs=6)
    risen = [min(1, (step + 1) / (warmup_steps + 1)) for step in range(30)]
    reduced = [0.5 ** max(0, step // 5 - 1) for step in range(30)]
    assert found == pytest.approx([LR * up * down for up, down in zip(risen, reduced, strict=True)])


def test_a_warm_up_beside_a_plateau_counts_accumulated_batches_as_one_step():
    found = rates_of_trainer(Stuck(4), max_epochs=2, accumulate_grad_batches=5)
    assert found == pytest.approx([LR * 0.2] * 5 + [LR * 0.4] * 5)


def test_a_continued_run_with_plateau_and_warm_up_goes_on_to_the_bit_and_under_new_settings():
    typed = ["--config=configs/digits.yaml", "--model.net.width=2", "--test=false", "--model.warmup_steps=10"]
    typed += ["--model.schedule=torch.optim.lr_scheduler.ReduceLROnPlateau", "--trainer.limit_train_batches=3"]
    whole = main(["fit", *typed, "--trainer.max_epochs=4"]).model.net
    main(["fit", *typed, "--trainer.max_epochs=2"])
    again = ["fit", "--run=runs/digits/version_1", "--test=false"]
    parts = main([*again, "--trainer.max_epochs=4"])
    assert all(p.equal(q) for p, q in zip(whole.parameters(), parts.model.net.parameters(), strict=True))
    assert parts.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(4e-3)
    changed = ["--model.schedule.factor=0.5", "--model.schedule.patience=0", "--model.schedule.threshold=0.9"]
    more = main([*again, "--trainer.max_epochs=6", *changed])
    assert more.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(4e-3 / 4)


def test_rules_and_layers_set_the_rates_that_the_schedule_scales():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    rules = [{"match": "0.weight", "lr": 0.7}]
    (made,), (config,) = optimizer_and_schedule(net, partial(SGD, lr=LR), Linear, 0, 4, groups=rules, layer_decay=0.5)
    names = {p: name for name, p in net.named_parameters()}
    assert made is config["scheduler"].optimizer
    for factor in (1, 0.75):
        found = {names[p]: group["lr"] / factor for group in made.param_groups for p in group["params"]}
        expected = dict.fromkeys(("2.weight", "2.bias"), LR) | dict.fromkeys(("1.weight", "1.bias"), LR / 2)
        assert found == pytest.approx(expected | {"0.weight": 0.7, "0.bias": LR / 4})
        made.step()
        config["scheduler"].step()
    assert not any("lr_scale" in group for group in made.param_groups)


def test_a_rate_that_groups_share_as_a_tensor_is_scaled_for_each():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    (made,), _ = optimizer_and_schedule(net, partial(SGD, lr=torch.tensor(1.0)), None, 0, 4, layer_decay=0.5)
    assert [float(group["lr"]) for group in made.param_groups] == [1, 1, 0.5, 0.5]


def test_a_setting_that_the_optimizer_lacks_is_refused():
    with pytest.raises(UserError, match=re.escape("groups: SGD has no setting momentun, did you mean momentum?")):
        optimizer_and_schedule(nn.Linear(2, 2), partial(SGD, lr=LR), None, 0, 4, [{"match": ".*", "momentun": 0.9}])


OPTIMIZERS = {
    "SGD": partial(SGD, lr=0.1),
    "SGD with momentum": partial(SGD, lr=0.05, momentum=0.9),
    "SGD with Nesterov momentum": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": partial(torch.optim.Adam, lr=0.01),
    "AdamW": partial(torch.optim.AdamW, lr=0.01),
    "NAdam": partial(torch.optim.NAdam, lr=0.01),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.01),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.05),
    "Adadelta": partial(torch.optim.Adadelta, lr=1.0),
    "MuonSGD": optim.MuonSGD,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_digits(name):
    torch.manual_seed(0)
    images, targets = Digits().load(train=True)
    net = SmallCNN(10, width=2)
    (made,), (config,) = optimizer_and_schedule(net, OPTIMIZERS[name], Cosine, 3, 40, layer_decay=0.9)
    losses = []
    for step in range(40):
        batch = slice(32 * step, 32 * (step + 1))
        loss = cross_entropy(net(images[batch] / 255), targets[batch])
        made.zero_grad()
        loss.backward()
        made.step()
        config["scheduler"].step()
        losses.append(loss.item())
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    assert [group["lr"] for group in made.param_groups] == [0] * len(made.param_groups)


@pytest.mark.parametrize(
    "typed",
    [
        "optimizer=torch.optim.Adadelta schedule=torch.optim.lr_scheduler.StepLR schedule.step_size=20",
        "optimizer=torch.optim.NAdam optimizer.lr=0.02 schedule=src.optim.MultiStep schedule.milestones=[0.5,0.9]",
        "optimizer=torch.optim.SGD optimizer.lr=0.1 schedule=src.optim.OneCycle schedule.rise=0.5",
        "optimizer=src.optim.MuonSGD schedule=src.optim.Polynomial layer_decay=0.9 "
        "groups=[{match:head.*,muon:false,lr:0.1}]",
    ],
)
def test_optimizers_and_schedules_are_named_on_the_command_line(typed):
    small = ["--config=configs/digits.yaml", "--model.net.width=2", "--trainer.max_epochs=2", "--test=false"]
    settings = [f"--model.{each}".replace(":", ": ") for each in typed.split()]
    cli = main(["fit", *small, *settings, "--model.warmup_steps=2"])
    made = (cli.trainer.optimizers[0], cli.model.schedule(cli.trainer.optimizers[0]))
    assert [type(each).__name__ for each in made] == re.findall(r"\.([A-Z]\w+)", typed)
    rows = csv.DictReader(Path("runs/digits/version_0/metrics.csv").read_text().splitlines())
    first, second = (float(row["train/loss"]) for row in rows if row["train/loss"])
    assert second < first
