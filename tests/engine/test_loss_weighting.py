"""Processes and accumulated batches count by the denominators of their losses; integers are averaged exactly."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.cli import main
from src.data.loading.loader import BatchSampler
from src.engine.loss_weighting import LossWeighting, average_exactly
from src.tasks.metrics import EpochMeans
from tests.conftest import SMALL, weights
from tools.exactness import TRAIN, WEIGHTS, cells, compare, terms


@pytest.mark.parametrize("loss", ["class weights", "ignore_index", "sum"])
def test_accumulated_micro_batches_give_the_gradients_of_whole_batches(loss: str) -> None:
    assert max(compare(loss, 1, 4, 2).values()) < 1e-6


@pytest.mark.heavy
def test_two_processes_with_uneven_batches_compute_what_one_does() -> None:
    rows = list(cells(2, ["smoothing", "sum"]))
    assert len(rows) == 8
    assert max(max(row.values()) for *_, row in rows) < 1e-6


class Strategy:
    """Averages two processes in place, as torch.distributed does: integers lose their fraction."""

    def reduce(self, tensor: torch.Tensor, group: object = None, reduce_op: str = "mean") -> torch.Tensor:  # noqa: ARG002
        total = tensor + tensor - 1
        return total if reduce_op == "sum" else (total / 2).to(tensor.dtype)


def test_the_mean_of_integers_keeps_its_fraction() -> None:
    strategy = Strategy()
    assert strategy.reduce(torch.tensor(19)) == 18
    average_exactly(strategy)
    assert strategy.reduce(torch.tensor(19)) == 18.5
    assert strategy.reduce(torch.tensor(19.0)) == 18.5
    assert strategy.reduce(torch.tensor(19), reduce_op="sum").dtype == torch.int64


def test_batches_without_any_counted_target_change_nothing() -> None:
    callback, p = LossWeighting(), torch.nn.Parameter(torch.ones(2))
    callback.ranks, callback.accumulate, callback.is_sum, callback.reference = 1, 2, False, 1.0
    callback.total, p.grad = torch.zeros(()), torch.zeros(2)
    callback.on_before_optimizer_step(None, None, SimpleNamespace(param_groups=[{"params": [p]}]))  # type: ignore[arg-type]
    assert p.grad.tolist() == [0, 0]


@pytest.mark.parametrize("batches", [(1, 3), (3, 1)])
def test_a_schedule_of_accumulation_steps_like_a_loop_over_whole_batches(batches: tuple[int, int]) -> None:
    args = ["fit", "--config=configs/digits.yaml", "--data=tools.exactness.Few", "--data.batch_size=20", "--test=false"]
    args += ["--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]", "--model.net.hidden_sizes=[16]"]
    args += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1", "--model.schedule=null"]
    args += ["--model.warmup_steps=0", "--model.optimizer.weight_decay=0", f"--model.class_weights={WEIGHTS}"]
    args += ["--data.augment=null", "--trainer.callbacks=lightning.pytorch.callbacks.GradientAccumulationScheduler"]
    args += [f"--trainer.callbacks.scheduling={{0: {batches[0]}, 1: {batches[1]}}}", "--trainer.max_epochs=2"]
    x = main([*args, "--trainer.callbacks+=tools.exactness.Record"])
    (net,) = [each.net.double() for each in x.trainer.callbacks if hasattr(each, "net")]  # type: ignore[attr-defined]
    train, sampler = x.data.splits["train"], BatchSampler(TRAIN, 20, shuffle=True, seed=0)
    for epoch, count in enumerate(batches):
        sampler.set_epoch(epoch)
        parts = list(sampler)
        for first in range(0, len(parts), count):
            _, images, targets = train[torch.cat(parts[first : first + count])]
            total, weight = terms("class weights", net(x.data.normalize(images).double()), targets)
            for p, grad in zip(
                net.parameters(), torch.autograd.grad(total / weight, list(net.parameters())), strict=True
            ):
                p.data -= 0.1 * grad
    trained = weights(Path("runs/digits/version_0"))
    assert max(float((trained[f"net.{name}"] - p.detach()).abs().max()) for name, p in net.named_parameters()) < 1e-6


def test_penalties_of_a_sum_over_several_batches_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["fit", *SMALL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--test=false"]
    args += ["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.reduction=sum"]
    args += ["--model.penalties=[{class_path: src.losses.L2, init_args: {weight: 0.1}}]"]
    main([*args, "--trainer.accumulate_grad_batches=2"])
    assert "each process and accumulated batch adds its penalties once more" in capsys.readouterr().out


@pytest.mark.parametrize(("is_sum", "expected"), [(False, (3 * 2 + 1 * 4 + 5 * 0.5) / 6.5), (True, 9.0)])
def test_the_loss_of_a_step_is_that_of_the_batches_of_all_processes(is_sum: bool, expected: float) -> None:
    callback, logged = LossWeighting(), {}
    callback.means, callback.is_sum = EpochMeans(), is_sum
    callback.means.steps = [
        (torch.tensor(3.0), 2),
        (torch.tensor(1.0), torch.tensor(4.0)),
        (torch.tensor(torch.nan), 0),
    ]
    other = torch.tensor([5.0, 0.5] if is_sum else [2.5, 0.5], dtype=torch.float64)  # numerator, weight
    callback.sum_over_ranks = lambda mine: (mine + other, None)  # type: ignore[method-assign,misc,assignment,return-value]
    module = SimpleNamespace(device=torch.device("cpu"), log=logged.__setitem__)
    callback.on_train_batch_end(None, module)  # type: ignore[arg-type]
    assert {name: float(value) for name, value in logged.items()} == {"train/loss_step": pytest.approx(expected)}
    assert callback.means.steps == []
