"""A step with non-finite gradients changes nothing; too many in a row stop the run."""

from collections import defaultdict
from itertools import pairwise
from math import inf, nan
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src import UserError
from src.cli import main
from src.engine.skip_non_finite import SkipNonFinite, all_finite
from tests.conftest import FIT, rows, same


class Net(LightningModule):
    """A net with batches that are non-finite in their inputs, in the loss, or in the gradients only.

    ``faults`` maps the index of a batch to ``nan`` or ``inf`` (inputs), ``loss`` or ``gradient``.
    """

    def __init__(self, faults: dict[int, str], optimizer: str = "AdamW") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.faults, self.kind = faults, optimizer
        self.net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        fault = self.faults.get(batch_idx, "")
        loss = self.net(batch * float(fault) if fault in ("nan", "inf") else batch).square().mean()
        if fault == "loss":
            loss = loss * float("inf")
        if fault == "gradient":
            self.hook = self.net[0].weight.register_hook(self.divide_by_zero)
        return loss

    def divide_by_zero(self, gradient: Tensor) -> Tensor:
        self.hook.remove()
        return gradient / 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = {"momentum": 0.9} if self.kind == "SGD" else {}
        return getattr(torch.optim, self.kind)(self.parameters(), lr=0.05, **settings)


class Watch(Callback):
    """Copy weights, moments and buffers after each batch."""

    def __init__(self) -> None:
        self.states: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        states = [*pl_module.state_dict().values()]
        for state in trainer.optimizers[0].state.values():
            states += [value for value in state.values() if isinstance(value, Tensor)]
        self.states.append([value.clone() for value in states])


def fit(net: Net, max_consecutive: int = 10, **settings: Any) -> tuple[list[list[Tensor]], SkipNonFinite]:
    watch, skip = Watch(), SkipNonFinite(max_consecutive)
    train(net, [watch, skip], **settings)
    return watch.states, skip


def train(net: Net, callbacks: list[Callback], **settings: Any) -> None:
    samples: Any = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, callbacks=callbacks, enable_checkpointing=False, **{**quiet, **settings})
    trainer.fit(net, DataLoader(samples, batch_size=8))


def finite(states: list[list[Tensor]]) -> bool:
    return all(bool(value.isfinite().all()) for state in states for value in state)


@pytest.mark.parametrize("fault", ["nan", "inf", "loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_non_finite_step_changes_nothing(fault: str, optimizer: str) -> None:
    states, skip = fit(Net({3: fault}, optimizer))
    # without the number of batches that the norm has seen
    before, step, after = ([value for value in states[i] if value.dtype != torch.long] for i in (2, 3, 4))
    assert same(before, step)
    assert not same(step, after)
    assert finite(states)
    assert skip.skipped == 1


def test_without_faults_a_run_equals_one_without_the_callback() -> None:
    watch = Watch()
    train(Net({}), [watch])
    assert same(fit(Net({}))[0], watch.states)


def test_one_non_finite_batch_skips_the_accumulated_step() -> None:
    states, skip = fit(Net({4: "nan"}), accumulate_grad_batches=3)
    assert skip.skipped == 1
    weights = [state[:2] for state in states]
    assert same(weights[2], weights[5])
    assert not same(weights[5], weights[8])
    assert finite(states[-1:])


def test_too_many_skipped_steps_in_a_row_stop_the_run() -> None:
    error = (
        r"^3 consecutive steps had NaN or infinite gradients, the last in epoch 0, batch 6: lower the learning rate, "
    )
    with pytest.raises(UserError, match=error):
        fit(Net(dict.fromkeys((1, 2, 4, 5, 6), "nan")), max_consecutive=3)


class TwoOptimizers(Net):
    """A net of two optimizers; the gradients of the first are never finite."""

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


def test_consecutive_steps_are_counted_per_optimizer() -> None:
    with pytest.raises(UserError, match=r"4 consecutive steps .* batch 3"):
        train(TwoOptimizers(), [SkipNonFinite(4)])


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None")
def test_a_batch_without_a_loss_is_no_skipped_step() -> None:
    net = Net({})
    net.training_step = lambda batch, batch_idx: None if batch_idx == 2 else Net.training_step(net, batch, batch_idx)  # type: ignore[assignment,method-assign]
    states, skip = fit(net)
    assert len(states) == 12
    assert skip.skipped == 0


def test_without_synchronization_weights_stay_finite_too(monkeypatch: pytest.MonkeyPatch) -> None:
    start = SkipNonFinite.on_train_start

    def as_on_gpu(self: SkipNonFinite, _: Trainer, net: LightningModule) -> None:
        start(self, cast("Any", SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")))), net)

    monkeypatch.setattr(SkipNonFinite, "on_train_start", as_on_gpu)
    states, skip = fit(Net({3: "nan", 4: "inf", 7: "loss"}))
    assert finite(states)
    norms = [state[4:6] for state in states]  # running statistics
    assert [same(a, b) for a, b in pairwise(norms)] == [step in (3, 4, 7) for step in range(1, 12)]
    assert skip.skipped == 3
    with pytest.raises(UserError, match="consecutive steps"):
        fit(Net(dict.fromkeys(range(12), "nan")), max_consecutive=2, log_every_n_steps=4)


@pytest.mark.parametrize("bad", [0.0, nan, inf, -inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_on_a_gpu_gradients_of_any_type_and_layout_are_kept_or_zeroed(bad: float, dtype: torch.dtype) -> None:
    shapes = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.randn(4, 6).t(), torch.randn(())
    grads = [each.to(dtype) for each in shapes] + [-torch.zeros(2), torch.full((3,), 1e-42)]
    grads[0][1, 2, 3, 3] = bad
    before, skip = [grad.clone() for grad in grads], SkipNonFinite()
    skip.consecutive, skip.buffers = defaultdict(int), []
    skip.zero_nonfinite(cast("Any", None), grads)
    kept = bad == 0
    assert skip.skipped == (not kept)
    assert all(
        torch.equal(now, then if kept else torch.zeros_like(then)) for now, then in zip(grads, before, strict=True)
    )


class SpoilImages(nn.Module):
    """An augmentation that fails once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.float() * float("nan") if self.calls == 30 else images.float()


def test_every_run_logs_its_skipped_steps_and_a_resumed_one_counts_on() -> None:
    main([*FIT, f"--data.augment=[{{class_path: {__name__}.SpoilImages}}]"])
    run = "runs/digits/version_0"
    assert [row["skipped_steps"] for row in rows(run) if row["skipped_steps"]] == ["1.0"]
    x = main(["fit", f"--run={run}", "--trust", "--trainer.max_epochs=3"])
    assert next(each for each in x.trainer.callbacks if isinstance(each, SkipNonFinite)).skipped == 1


def test_a_resumed_run_remembers_consecutive_skipped_steps() -> None:
    _, skip = fit(Net({10: "nan", 11: "nan"}))
    resumed = SkipNonFinite(3)
    resumed.load_state_dict(skip.state_dict())
    with pytest.raises(UserError, match=r"3 consecutive steps .* batch 0"):
        train(Net({0: "nan"}), [resumed])


def test_large_numbers_are_finite() -> None:
    assert all_finite([torch.full((1000,), 3000.0, dtype=torch.float16), torch.full((9,), 3e38)])
    assert not all_finite([torch.zeros(3), torch.tensor([1.0, float("nan")])])
    assert not all_finite([torch.tensor([float("-inf")])])


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="max_consecutive must be at least 1, got 0"):
        SkipNonFinite(0)
