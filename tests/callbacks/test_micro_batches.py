"""Micro-batches give the weights and the logged values of a plain loop over full batches."""

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.loops.optimization.automatic import Closure
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from src import UserError
from src.callbacks import MicroBatches, WeightNoise
from tests.callbacks.conftest import QUIET

BATCH_SIZE, BATCHES = 14, 6
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
IGNORED = -100


class Token:
    """Lives as long as a node of the graph."""


class Limited(torch.autograd.Function):
    """The identity; its backward pass runs out of memory with more than ``most`` samples."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: int, graphs: weakref.WeakSet) -> Tensor:
        ctx.most, ctx.token = most, Token()
        graphs.add(ctx.token)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if len(grad) > ctx.most:
            raise torch.OutOfMemoryError("simulated")
        return grad, None, None


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def make_batches() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for i in range(BATCHES):
        targets = torch.randint(3, (BATCH_SIZE,), generator=generator)
        targets[: 3 * i] = IGNORED  # in the last batch, all but one
        targets[-1] = 2
        x = torch.randn(BATCH_SIZE, 4, generator=generator, dtype=torch.float64)
        names = [f"{value:.4f}" for value in x[:, 0].tolist()]
        batches.append({"inputs": {"x": x, "scale": torch.tensor(0.5)}, "names": names, "targets": (targets,)})
    return batches


class Plain(LightningModule):
    """A module with nested batches and a loss that is a mean over samples."""

    def __init__(self, forward: int = 99, backward: int = 99) -> None:
        super().__init__()
        self.net = make_net()
        self.most_forward, self.most_backward = forward, backward
        self.lengths: list[int] = []
        self.graphs: weakref.WeakSet = weakref.WeakSet()
        self.graphs_before: list[int] = []

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets.clamp(min=0))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:  # noqa: ARG002
        x, (targets,) = batch["inputs"]["x"], batch["targets"]
        assert batch["names"] == [f"{value:.4f}" for value in x[:, 0].tolist()]
        self.lengths.append(len(x))
        self.graphs_before.append(len(self.graphs))
        logits = Limited.apply(self.net(x * batch["inputs"]["scale"]), self.most_backward, self.graphs)
        if len(x) > self.most_forward:
            raise torch.OutOfMemoryError("simulated")
        return {"loss": self.loss(logits, targets)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


class Averaged(Plain):
    """States that its loss is a mean over samples."""

    def loss_weight(self, batch: dict[str, Any]) -> float:
        return float(len(batch["names"]))


class ClassWeighted(Plain):
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets.clamp(min=0), CLASS_WEIGHTS)

    def loss_weight(self, batch: dict[str, Any]) -> Tensor:
        return CLASS_WEIGHTS[batch["targets"][0].clamp(min=0)].sum()


class Ignoring(Plain):
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets, ignore_index=IGNORED)

    def loss_weight(self, batch: dict[str, Any]) -> Tensor:
        return (batch["targets"][0] != IGNORED).sum()


def loop(loss: Callable[[Any, Tensor, Tensor], Tensor], accumulate: int = 1, epochs: int = 2) -> nn.Module:
    """Train on full batches."""
    net, velocities = make_net(), {}
    for i, batch in enumerate(epochs * make_batches()):
        logits = net(batch["inputs"]["x"] * batch["inputs"]["scale"])
        (loss(None, logits, batch["targets"][0]) / accumulate).backward()
        if (i + 1) % accumulate == 0:
            for p in net.parameters():
                velocities[p] = 0.9 * velocities.get(p, 0) + p.grad
                p.data -= 0.5 * velocities[p]
                p.grad = None
    return net


def fit(
    model: LightningModule,
    *callbacks: Callback,
    batches: list[Any] | None = None,
    ckpt_path: Any = None,
    **settings: Any,
) -> Trainer:
    settings = QUIET | {"max_epochs": 2} | settings
    trainer = Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(model, DataLoader(batches or make_batches(), batch_size=None), ckpt_path=ckpt_path)
    return trainer


def assert_same_weights(ours: nn.Module, theirs: nn.Module, atol: float = 1e-14) -> None:
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [Averaged, ClassWeighted, Ignoring])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_weights_equal_those_of_a_loop_over_full_batches(count, kind, accumulate):
    model, plain = kind(), loop(kind.loss, accumulate)
    fit(model, MicroBatches(count), accumulate_grad_batches=accumulate)
    assert_same_weights(model.net, plain)
    if kind is not Ignoring:
        assert len(model.lengths) == 2 * BATCHES * min(count, BATCH_SIZE)


def test_bf16_weights_agree_within_its_precision():
    class Single(ClassWeighted):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
            return batch | {"inputs": {name: value.float() for name, value in batch["inputs"].items()}}

        def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
            return cross_entropy(logits, targets.clamp(min=0), CLASS_WEIGHTS.float())

    model = Single()
    model.net.float()
    fit(model, MicroBatches(3), precision="bf16-mixed")
    assert_same_weights(model.net.double(), loop(ClassWeighted.loss), atol=0.05)


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(("most", "count"), [(13, 2), (7, 2), (6, 4), (1, 16)])
def test_out_of_memory_doubles_the_count_and_changes_no_weight(where, most, count):
    model, callback = ClassWeighted(**{where: most}), MicroBatches()
    trainer = fit(model, callback)
    assert callback.count == count
    assert trainer.global_step == 2 * BATCHES
    assert_same_weights(model.net, loop(ClassWeighted.loss))


def test_out_of_memory_is_announced_in_one_line():
    told = "^out of memory: splitting each batch into 2 micro-batches from now on$"
    with pytest.warns(UserWarning, match=told) as warned:
        fit(Averaged(forward=7), MicroBatches())
    assert len([warning for warning in warned if "micro-batches" in str(warning.message)]) == 1


@pytest.mark.filterwarnings("ignore:out of memory")
def test_out_of_memory_in_forward_is_recovered_while_accumulating():
    model = Averaged(forward=7)
    fit(model, MicroBatches(), accumulate_grad_batches=2)
    assert_same_weights(model.net, loop(Averaged.loss, accumulate=2))


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize(
    ("most", "retry", "settings"),
    [
        ({"forward": 7}, False, {}),
        ({"backward": 7}, False, {}),
        ({"backward": 7}, True, {"accumulate_grad_batches": 2}),
        ({"forward": 0}, True, {}),
        ({"backward": 0}, True, {}),
    ],
)
def test_out_of_memory_is_an_error_where_a_retry_is_impossible(most, retry, settings):
    with pytest.raises(torch.OutOfMemoryError, match="simulated"):
        fit(Averaged(**most), MicroBatches(retry_on_out_of_memory=retry), **settings)


def test_out_of_memory_with_ddp_is_an_error(one_ddp_process):
    with pytest.raises(torch.OutOfMemoryError, match="simulated"):
        fit(Averaged(forward=7), MicroBatches(), **one_ddp_process)


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_graph_of_a_failed_attempt_is_free_before_the_next(where):
    model = Averaged(**{where: 5})
    gc.disable()
    try:
        fit(model, MicroBatches(), max_steps=1)
    finally:
        gc.enable()
    assert model.lengths[:3] == [14, 7, 3]
    assert model.graphs_before[:3] == [0, 0, 0]


class Logging(ClassWeighted):
    """Logs the loss and the number of samples in several ways."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        n = len(batch["names"])
        self.log("loss", output["loss"], on_step=True, on_epoch=True)
        self.log_dict({"sized": output["loss"]}, on_step=False, on_epoch=True, batch_size=n)
        self.log("seen", float(n), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("most", torch.tensor(float(n)), on_step=False, on_epoch=True, reduce_fx=torch.max)
        return output


class StepLosses(Callback):
    """Keeps what each batch logged."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:  # noqa: ARG002
        if "loss_step" in trainer.callback_metrics:
            self.losses.append(float(trainer.callback_metrics["loss_step"]))


@pytest.mark.filterwarnings("ignore:out of memory", "ignore:.*infer the batch size", "ignore:.*infer the `batch_size`")
@pytest.mark.parametrize("count", [1, 3, 50])
@pytest.mark.parametrize("where", [{}, {"forward": 7}, {"backward": 7}], ids=str)
def test_logged_values_are_those_of_full_batches(count, where):
    model, expected, logged = Logging(**where), StepLosses(), StepLosses()
    before = fit(Logging(), expected).callback_metrics
    after = fit(model, callback := MicroBatches(count), logged).callback_metrics
    assert logged.losses == pytest.approx(expected.losses, rel=1e-6)
    assert after["loss_epoch"] == pytest.approx(before["loss_epoch"].item(), rel=1e-6)
    assert after["sized"] == pytest.approx(before["sized"].item(), rel=1e-6)
    assert after["seen"] == before["seen"] == BATCHES * BATCH_SIZE
    assert after["most"] == max(model.lengths[-callback.count :])


class Hooks(Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_before_zero_grad(self, *args: Any) -> None:  # noqa: ARG002
        self.calls.append("zero_grad")

    def on_after_backward(self, *args: Any) -> None:  # noqa: ARG002
        self.calls.append("after_backward")

    def on_before_optimizer_step(self, *args: Any) -> None:  # noqa: ARG002
        self.calls.append("step")


def test_hooks_after_backward_run_once_per_batch():
    hooks = Hooks()
    fit(Averaged(), MicroBatches(3), hooks, max_epochs=1)
    assert hooks.calls == BATCHES * ["zero_grad", "after_backward", "step"]


def test_all_micro_batches_see_the_same_noisy_weights():
    class Watched(Averaged):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(self.net[0].weight.detach().clone())
            return super().training_step(batch, batch_idx)

    model = Watched()
    model.seen = []
    fit(model, MicroBatches(3), WeightNoise(0.1), max_epochs=1)
    assert len(model.seen) == 3 * BATCHES
    for first, second, third in zip(*(model.seen[i::3] for i in range(3)), strict=True):
        assert first.equal(second)
        assert first.equal(third)


class Means:
    """Adds up what each training step counts."""

    def __init__(self) -> None:
        self.samples = 0

    def snapshot(self) -> int:
        return self.samples

    def restore(self, snapshot: int) -> None:
        self.samples = snapshot


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_epoch_means_do_not_count_failed_attempts(where):
    class Counting(Averaged):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.train_means.samples += len(batch["names"])
            return super().training_step(batch, batch_idx)

    model = Counting(**{where: 4})
    model.train_means = Means()
    fit(model, MicroBatches())
    assert model.train_means.samples == 2 * BATCHES * BATCH_SIZE


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("settings", [{"count": 2}, {"count": 4}, {}], ids=str)
def test_without_loss_weight_a_warning_says_that_samples_count(settings):
    told = r"^Plain has no loss_weight\(batch\): MicroBatches assumes a loss that is a mean over samples$"
    with pytest.warns(UserWarning, match=told) as warned:
        fit(model := Plain(forward=13 if not settings else 99), MicroBatches(**settings))
    assert len([warning for warning in warned if "loss_weight" in str(warning.message)]) == 1
    assert_same_weights(model.net, loop(Plain.loss))


def test_a_single_micro_batch_is_any_batch():
    class Ragged(Averaged):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch | {"targets": batch["targets"][:1]}, batch_idx)

    batches = [batch | {"targets": [*batch["targets"], torch.zeros(3)]} for batch in make_batches()]
    fit(model := Ragged(), MicroBatches(), batches=batches)
    assert_same_weights(model.net, loop(Averaged.loss))
    with pytest.raises(UserError, match=r"tensors of one length, got lengths \[3, 14\]"):
        fit(Ragged(), MicroBatches(2), batches=batches)


def test_a_resumed_run_keeps_its_count_unless_the_user_changes_it(tmp_path):
    callback = MicroBatches(2)
    with pytest.warns(UserWarning, match="into 4 micro-batches"):
        trainer = fit(Averaged(forward=4), callback, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for count, expected in ((2, 4), (3, 3), (8, 8)):
        callback, model = MicroBatches(count), Averaged(forward=5)
        fit(model, callback, ckpt_path=tmp_path / "last.ckpt")
        assert callback.count == expected
        assert len(model.lengths) == BATCHES * expected
        assert_same_weights(model.net, loop(Averaged.loss))


def test_after_training_and_after_an_error_the_strategy_is_as_before():
    trainer = fit(Averaged(), MicroBatches(2), max_epochs=1)
    assert not {"training_step", "backward", "optimizer_step"} & set(vars(trainer.strategy))
    model = Averaged()
    model.loss = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit(model, callback := MicroBatches(2))
    assert not {"training_step", "backward", "optimizer_step"} & set(vars(callback.strategy))
    assert "log" not in vars(model)


def test_a_batch_without_loss_is_skipped_only_if_it_is_not_split():
    class Skipping(Averaged):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)

    model = Skipping()
    Closure.warning_cache.clear()  # which warns once in a process
    with pytest.warns(UserWarning, match="returned `None`"):
        fit(model, MicroBatches())
    assert_same_weights(model.net, make_net())
    with pytest.raises(UserError, match="needs a loss for each micro-batch, but training_step returned None"):
        fit(Skipping(), MicroBatches(2))


def test_manual_optimization_is_refused_before_training():
    model = Averaged()
    model.automatic_optimization = False
    with pytest.raises(UserError, match="MicroBatches needs automatic optimization: remove the callback"):
        fit(model, MicroBatches())
    assert model.lengths == []


def test_strategies_that_shard_gradients_are_refused_before_training():
    class Sharded(SingleDeviceStrategy):
        pass

    model = Averaged()
    with pytest.raises(UserError, match="needs one device or strategy ddp, got Sharded"):
        fit(model, MicroBatches(), strategy=Sharded())
    assert model.lengths == []


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(ValueError, match=f"count must be at least 1, got {count}"):
        MicroBatches(count)


class OfRank(ClassWeighted):
    """Trains on every second batch of two processes; the processes split some batches differently."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets, CLASS_WEIGHTS, ignore_index=IGNORED)

    def loss_weight(self, batch: dict[str, Any]) -> Tensor:
        (targets,) = batch["targets"]
        return CLASS_WEIGHTS[targets[targets != IGNORED]].sum()

    def train_dataloader(self) -> Any:
        return DataLoader(make_batches()[self.global_rank :: 2], batch_size=None)


def fit_two_processes(folder: Path) -> None:
    for accumulate in (1, 3):
        settings = QUIET | {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False}
        settings |= {"max_epochs": 1, "accumulate_grad_batches": accumulate}
        model = OfRank()
        Trainer(callbacks=[MicroBatches(3)], **settings).fit(model)
        torch.save(model.net.state_dict(), folder / f"{accumulate}.pt")


@pytest.mark.heavy
def test_two_processes_equal_a_loop_over_the_batches_of_both(tmp_path):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for accumulate in (1, 3):
        net = make_net()
        net.load_state_dict(torch.load(tmp_path / f"{accumulate}.pt"))
        assert_same_weights(net, loop(OfRank.loss, accumulate=2 * accumulate, epochs=1))


if __name__ == "__main__":
    fit_two_processes(Path(sys.argv[1]))
