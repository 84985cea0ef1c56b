"""A step with gradients that are not finite changes nothing; too many of them stop the run."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src import UserError
from src.callbacks import SkipNonFinite
from src.callbacks.skip_non_finite import finite
from src.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


class Net(LightningModule):
    """Its loss is spoilt in some batches, by the images, in forward, or in backward alone."""

    def __init__(self, spoilt: dict[int, str], optimizer: str = "AdamW") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spoilt, self.kind = spoilt, optimizer
        self.net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        fault = self.spoilt.get(batch_idx, "")
        loss = self.net(batch * float(fault) if fault in ("nan", "inf") else batch).square().mean()
        if fault == "loss":
            loss = loss * float("inf")
        if fault == "gradient":
            self.net[0].weight.register_hook(lambda gradient: gradient / 0)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = {"momentum": 0.9} if self.kind == "SGD" else {}
        return getattr(torch.optim, self.kind)(self.parameters(), lr=0.05, **settings)


class Watch(Callback):
    """Copies weights, moments and buffers after each batch."""

    def __init__(self) -> None:
        self.states: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        states = [*pl_module.state_dict().values()]
        for state in trainer.optimizers[0].state.values():
            states += [value for value in state.values() if isinstance(value, Tensor)]
        self.states.append([value.clone() for value in states])


def fit(net: Net, most_in_a_row: int = 10, **settings: Any) -> tuple[list[list[Tensor]], SkipNonFinite]:
    watch, skip = Watch(), SkipNonFinite(most_in_a_row)
    train(net, [watch, skip], **settings)
    return watch.states, skip


def train(net: Net, callbacks: list[Callback], **settings: Any) -> None:
    samples: Any = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, callbacks=callbacks, enable_checkpointing=False, **{**quiet, **settings})
    trainer.fit(net, DataLoader(samples, batch_size=8))


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


@pytest.mark.parametrize("fault", ["nan", "inf", "loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_spoilt_step_changes_nothing_and_the_next_ones_go_on(fault: str, optimizer: str) -> None:
    states, skip = fit(Net({3: fault} if fault != "gradient" else {10: fault}, optimizer))
    spoilt = 3 if fault != "gradient" else 10
    counts = [i for i, value in enumerate(states[0]) if value.dtype == torch.long]  # of batches that a norm has seen
    before, after = ([v for i, v in enumerate(states[s]) if i not in counts] for s in (spoilt - 1, spoilt))
    assert equal(before, after)
    assert not equal(states[spoilt + 1], states[spoilt]) or fault == "gradient"
    assert all(bool(value.isfinite().all()) for state in states for value in state)
    assert skip.skipped == (1 if fault != "gradient" else 2)


def test_without_faults_nothing_differs_from_a_run_without_the_callback() -> None:
    watch = Watch()
    train(Net({}), [watch])
    assert all(map(equal, fit(Net({}))[0], watch.states))


def test_one_spoilt_batch_of_an_accumulation_leaves_out_its_step() -> None:
    states, skip = fit(Net({4: "nan"}), accumulate_grad_batches=3)
    assert skip.skipped == 1
    weights = [state[:2] for state in states]
    assert equal(weights[2], weights[5])
    assert not equal(weights[5], weights[8])
    assert all(bool(value.isfinite().all()) for value in states[-1])


def test_a_run_stops_after_too_many_in_a_row_and_names_the_place() -> None:
    with pytest.raises(UserError, match=r"^3 steps in a row .* the last in epoch 0, batch 6: lower the learning rate"):
        fit(Net(dict.fromkeys((1, 2, 4, 5, 6), "nan")), most_in_a_row=3)


class Two(Net):
    """A net of two optimizers; the gradients of one are always spoilt."""

    def __init__(self) -> None:
        super().__init__({})
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override] # noqa: ARG002
        for optimizer, factor in zip(self.optimizers(), (float("nan"), 1.0), strict=True):  # type: ignore[arg-type]
            optimizer.zero_grad()
            self.manual_backward(self.net(batch).square().mean() * factor)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.05) for i in (0, 2)]


def test_steps_in_a_row_are_those_of_one_optimizer() -> None:
    with pytest.raises(UserError, match=r"4 steps in a row .* batch 3"):
        train(Two(), [SkipNonFinite(4)])


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None")
def test_a_batch_that_the_module_passes_over_is_passed_over() -> None:
    net = Net({})
    net.training_step = lambda batch, batch_idx: None if batch_idx == 2 else Net.training_step(net, batch, batch_idx)  # type: ignore[assignment,method-assign]
    assert len(fit(net)[0]) == 12


def test_where_a_device_is_not_waited_for_the_weights_stay_finite_too(monkeypatch: pytest.MonkeyPatch) -> None:
    start = SkipNonFinite.on_train_start

    def no_wait(self: SkipNonFinite, _: Trainer, net: LightningModule) -> None:
        start(self, cast("Any", SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")))), net)

    monkeypatch.setattr(SkipNonFinite, "on_train_start", no_wait)
    states, skip = fit(Net({3: "nan", 4: "inf", 7: "loss"}))
    assert all(bool(value.isfinite().all()) for state in states for value in state)
    assert [equal(a[4:6], b[4:6]) for a, b in pairwise(states)] == [k in (3, 4, 7) for k in range(1, 12)]  # of the norm
    assert skip.skipped == 3
    with pytest.raises(UserError, match="steps in a row"):
        fit(Net(dict.fromkeys(range(12), "nan")), most_in_a_row=2, log_every_n_steps=4)


class SpoilImages(nn.Module):
    """Augmentation that fails once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.float() * float("nan") if self.calls == 30 else images.float()


def test_every_run_is_guarded_and_the_count_is_logged_and_goes_on() -> None:
    small = ["--config=configs/digits.yaml", "--model.net.width=4", "--trainer.max_epochs=2", "--test=false"]
    main(["fit", *small, f"--data.augment=[{{class_path: {__name__}.SpoilImages}}]"])
    log = Path("runs/digits/version_0/metrics.csv").read_text()
    assert "skipped_steps" in log.splitlines()[0]
    cli = main(["fit", "--run=runs/digits/version_0", "--trust", "--trainer.max_epochs=3"])
    assert next(each for each in cli.trainer.callbacks if isinstance(each, SkipNonFinite)).skipped == 1


def test_large_numbers_are_finite() -> None:
    assert finite([torch.full((1000,), 3000.0, dtype=torch.float16), torch.full((9,), 3e38)])
    assert not finite([torch.zeros(3), torch.tensor([1.0, float("nan")])])
    assert not finite([torch.tensor([float("-inf")])])


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="most_in_a_row must be at least 1, got 0"):
        SkipNonFinite(0)
