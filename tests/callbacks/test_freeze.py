"""Parameters are left alone in the epochs in which they are frozen, and only then."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src import UserError
from src.callbacks import Freeze
from src.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
OFF = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Net(LightningModule):
    """Remembers what it was after each epoch, and which parameters had gradients at each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
        self.head = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.head[1].weight.requires_grad = False
        self.states: list[dict[str, Tensor]] = []
        self.learning: list[set[str]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        return (self.head(self.body(batch)) - 1).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        self.learning.append({name for name, p in self.named_parameters() if p.grad is not None})

    def on_train_epoch_end(self) -> None:
        self.states.append({name: value.clone() for name, value in self.state_dict().items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def fit(*callbacks: Freeze, epochs: int = 4, **settings: Any) -> Net:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), **OFF, **settings)
    torch.manual_seed(1)
    trainer.fit(model, DataLoader(torch.randn(24, 6), batch_size=4), DataLoader(torch.randn(8, 6), batch_size=4))
    model.states.insert(0, before)
    return model


def moved(model: Net) -> list[set[str]]:
    """Return which parameters and buffers each epoch changed."""
    pairs = zip(model.states, model.states[1:], strict=False)
    return [{name for name in then if not torch.equal(then[name], now[name])} for then, now in pairs]


BODY = {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"}
BODY_NORM = {"body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"}
HEAD = {"head.0.weight", "head.0.bias", "head.1.bias"}
HEAD_NORM = {"head.1.running_mean", "head.1.running_var", "head.1.num_batches_tracked"}
ALL = BODY | BODY_NORM | HEAD | HEAD_NORM


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 0.5}, {"accumulate_grad_batches": 2}], ids=str)
@pytest.mark.parametrize(
    ("times", "frozen"),
    [({}, [1, 1, 1, 1]), ({"stop": 2}, [1, 1, 0, 0]), ({"start": 1, "stop": 3}, [0, 1, 1, 0]), ({"start": 9}, [0] * 4)],
)
def test_what_matches_and_its_norms_stay_as_they_are_while_frozen(times, frozen, settings):
    model = fit(Freeze(r"body\..*", **times), **settings)
    assert moved(model) == [ALL - BODY - BODY_NORM if each else ALL for each in frozen]
    steps = len(model.learning) // 4
    assert model.learning == [HEAD if each else HEAD | BODY for each in frozen for _ in range(steps)]


def test_a_norm_that_still_learns_and_dropout_stay_in_training():
    model = fit(Freeze(r"body\.(0\.weight|1\.bias)|head\.1\.bias"))
    assert moved(model) == 4 * [ALL - {"body.0.weight", "body.1.bias", "head.1.bias"} - HEAD_NORM]
    assert model.body[1].training
    assert model.body[2].training
    assert not model.head[1].training  # its weight never learned


def test_epochs_with_nothing_frozen_are_as_without_it():
    plain, late = fit(epochs=2), fit(Freeze(r"body\..*", start=2), epochs=3)
    for then, now in zip(plain.states, late.states, strict=False):
        assert all(torch.equal(then[name], now[name]) for name in then)


def test_after_training_parameters_are_as_before():
    model = fit(Freeze(".*weight"))
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"head.1.weight"}


def test_a_run_that_goes_on_amid_an_epoch_is_frozen_in_it():
    model, freeze = Net(), Freeze("body.*", start=1)
    trainer: Any = SimpleNamespace(strategy=None, current_epoch=1, callbacks=[freeze])
    freeze.setup(trainer, model, "fit")
    freeze.on_train_start(trainer, model)
    assert not model.body[0].weight.requires_grad
    assert not model.body[1].training


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("body", r"'body' is no trained parameter; nearest are body\.1\.bias, body\.0\.bias"),
        (r"head\.1\.weight", "is no trained parameter"),
        (".*", "leaves nothing to train"),
    ],
)
def test_what_does_not_match_or_matches_all_is_refused_before_training(match, message):
    with pytest.raises(UserError, match=message):
        fit(Freeze(match))


def test_processes_that_take_all_gradients_for_granted_are_refused():
    with pytest.raises(UserError, match=r"--trainer\.strategy=ddp_find_unused_parameters_true"):
        Freeze("body.*").setup(SimpleNamespace(strategy=DDPStrategy(), callbacks=[]), Net(), "fit")
    strategy = DDPStrategy(find_unused_parameters=True)
    Freeze("body.*").setup(SimpleNamespace(strategy=strategy, callbacks=[]), Net(), "fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"match": "("}, r"match must be a regular expression, got '\('"),
        ({"match": "a", "start": -1}, "start must be at least 0"),
        ({"match": "a", "start": 2, "stop": 2}, "stop greater than start, got 2 and 2"),
    ],
)
def test_an_invalid_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Freeze(**settings)


def test_a_run_freezes_layers_by_a_setting(capsys):
    command = ["fit", "--config=configs/digits.yaml", "--model.net.width=4", "--trainer.max_epochs=2", "--test=false"]
    command += ["--trainer.callbacks+=src.callbacks.Freeze", "--trainer.callbacks.stop=1"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--trainer.callbacks.match=features.*"])
    assert stop.value.code == 2
    assert "nearest are net.features" in capsys.readouterr().err
    main([*command, "--trainer.callbacks.match=net.features.*"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_each_holds_what_it_matches(order):
    freezes = [Freeze(r"body\.0\..*", stop=3), Freeze(r"body\..*", stop=1), Freeze(r"body\.1\..*", start=2, stop=3)]
    model = fit(*freezes[::order])
    first = {"body.0.weight", "body.0.bias"}
    assert moved(model) == [ALL - BODY - BODY_NORM, ALL - first, ALL - BODY - BODY_NORM, ALL]


def test_several_that_leave_nothing_to_train_are_refused_before_training():
    with pytest.raises(UserError, match=r"leaves nothing to train in epoch 1"):
        fit(Freeze(r"body\..*", start=1), Freeze(r"head\..*", stop=2))
