"""Parameters change in all epochs but those in which they are frozen."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src import UserError
from src.callbacks import Freeze
from src.cli import main
from tests.callbacks.conftest import QUIET
from tests.conftest import refused


class Net(LightningModule):
    """Records its state after each epoch and which parameters have gradients in each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
        self.head = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.head[1].weight.requires_grad = False
        self.states: list[dict[str, Tensor]] = []
        self.with_grad: list[set[str]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        return (self.head(self.body(batch)) - 1).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        self.with_grad.append({name for name, p in self.named_parameters() if p.grad is not None})

    def on_train_epoch_end(self) -> None:
        self.states.append({name: value.clone() for name, value in self.state_dict().items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def fit(*callbacks: Freeze, epochs: int = 4, **settings: Any) -> Net:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(max_epochs=epochs, callbacks=list(callbacks), **QUIET, **settings)
    torch.manual_seed(1)
    trainer.fit(model, DataLoader(torch.randn(24, 6), batch_size=4), DataLoader(torch.randn(8, 6), batch_size=4))
    model.states.insert(0, before)
    return model


def changed(model: Net) -> list[set[str]]:
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
    ("epochs", "frozen"),
    [({}, [1, 1, 1, 1]), ({"stop": 2}, [1, 1, 0, 0]), ({"start": 1, "stop": 3}, [0, 1, 1, 0]), ({"start": 9}, [0] * 4)],
)
def test_matching_parameters_and_their_norms_are_frozen_for_the_epochs(epochs, frozen, settings):
    model = fit(Freeze(r"body\..*", **epochs), **settings)
    assert changed(model) == [ALL - BODY - BODY_NORM if each else ALL for each in frozen]
    steps = len(model.with_grad) // 4
    assert model.with_grad == [HEAD if each else HEAD | BODY for each in frozen for _ in range(steps)]


def test_partly_frozen_norms_and_dropout_stay_in_training_mode():
    model = fit(Freeze(r"body\.(0\.weight|1\.bias)|head\.1\.bias"))
    assert changed(model) == 4 * [ALL - {"body.0.weight", "body.1.bias", "head.1.bias"} - HEAD_NORM]
    assert model.body[1].training
    assert model.body[2].training
    assert not model.head[1].training  # its weight is never trained


def test_epochs_without_frozen_parameters_are_unchanged():
    plain, late = fit(epochs=2), fit(Freeze(r"body\..*", start=2), epochs=3)
    for then, now in zip(plain.states, late.states, strict=False):
        assert all(torch.equal(then[name], now[name]) for name in then)


def test_training_ends_with_the_original_requires_grad():
    model = fit(Freeze(".*weight"))
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"head.1.weight"}


def test_a_run_that_resumes_within_an_epoch_freezes_in_it():
    model, freeze = Net(), Freeze("body.*", start=1)
    trainer: Any = SimpleNamespace(strategy=None, current_epoch=1, callbacks=[freeze])
    freeze.setup(trainer, model, "fit")
    freeze.on_train_start(trainer, model)
    assert not model.body[0].weight.requires_grad
    assert not model.body[1].training


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("body", r"Freeze\.match 'body' matches no trainable parameter; closest: body\.1\.bias, body\.0\.bias"),
        (r"head\.1\.weight", "matches no trainable parameter"),
        (".*", "leaves no parameter to train in epoch 0"),
    ],
)
def test_a_pattern_that_matches_nothing_or_everything_is_refused(match, message):
    with pytest.raises(UserError, match=message):
        fit(Freeze(match))


def test_ddp_that_expects_all_gradients_is_refused(one_ddp_process):
    with pytest.raises(UserError, match=r"--trainer\.strategy=ddp_find_unused_parameters_true"):
        fit(Freeze("body.*"), **one_ddp_process)


@pytest.mark.filterwarnings("ignore:find_unused_parameters=True was specified")
def test_ddp_that_finds_unused_parameters_freezes(one_ddp_process):
    model = fit(Freeze(r"body\..*", stop=2), **one_ddp_process | {"strategy": "ddp_find_unused_parameters_true"})
    assert changed(model) == [ALL - BODY - BODY_NORM, ALL - BODY - BODY_NORM, ALL, ALL]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"match": "("}, r"match must be a regular expression, got '\('"),
        ({"match": "a", "start": -1}, "start must be at least 0"),
        ({"match": "a", "start": 2, "stop": 2}, "stop greater than start, got 2 and 2"),
    ],
)
def test_an_invalid_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Freeze(**arguments)


@pytest.mark.heavy
def test_a_run_from_a_config_freezes_layers(capsys):
    command = ["fit", "--config=configs/digits.yaml", "--model.net.width=4", "--trainer.max_epochs=2", "--test=false"]
    command += ["--trainer.callbacks+=src.callbacks.Freeze", "--trainer.callbacks.stop=1"]
    assert "closest: net.features" in refused(capsys, *command, "--trainer.callbacks.match=features.*")
    main([*command, "--trainer.callbacks.match=net.features.*"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("order", [1, -1])
def test_several_callbacks_freeze_independently(order):
    freezes = [Freeze(r"body\.0\..*", stop=3), Freeze(r"body\..*", stop=1), Freeze(r"body\.1\..*", start=2, stop=3)]
    model = fit(*freezes[::order])
    first = {"body.0.weight", "body.0.bias"}
    assert changed(model) == [ALL - BODY - BODY_NORM, ALL - first, ALL - BODY - BODY_NORM, ALL]


def test_several_callbacks_that_freeze_everything_are_refused():
    with pytest.raises(UserError, match="leaves no parameter to train in epoch 1"):
        fit(Freeze(r"body\..*", start=1), Freeze(r"head\..*", stop=2))
