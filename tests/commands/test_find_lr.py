"""find_lr: the losses are those of a plain loop, the suggestion that of fastai, and nothing is changed."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from src.cli import main
from src.commands import find_lr
from src.commands.find_lr import RangeTest, valley
from tests.conftest import PlainModule, refused

PLAIN = ["find_lr", "--model=tests.conftest.PlainModule", "--data=src.data.Digits", "--trainer.max_epochs=1"]


def fastai_valley(losses: list[float]) -> int:
    """Return the index of ``valley``, as fastai/callback/schedule.py (2.7) has it."""
    n = len(losses)
    max_start, max_end = 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if (losses[i] < losses[j]) and (lds[i] < lds[j] + 1):
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return max_start + int(sections) + int(sections / 2)


@pytest.fixture
def tests(monkeypatch: pytest.MonkeyPatch) -> list[RangeTest]:
    """Return the range tests that commands make."""
    made: list[RangeTest] = []
    report = find_lr.report

    def watched(x: Any, test: RangeTest, file: Path) -> None:
        made.append(test)
        report(x, test, file)

    monkeypatch.setattr(find_lr, "report", watched)
    return made


def test_the_middle_of_the_longest_fall_is_that_of_fastai() -> None:
    draw = np.random.default_rng(0)
    for count in (5, 20, 60):
        losses = draw.normal(size=count) - np.linspace(0, 3, count)
        assert valley(losses) == fastai_valley(losses.tolist())
    assert valley(np.arange(9.0, 0, -1)) == fastai_valley([*range(9, 0, -1)]) == 3


class Watched(PlainModule):
    """Keeps its initial weights and its batches."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.initial, self.batches = deepcopy(self.net), []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.batches.append(batch)
        return super().training_step(batch, batch_idx)


def test_losses_are_those_of_a_plain_loop(tests: list[RangeTest], capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--low=1e-3", "--high=1", "--steps=30", "--model.lr=0.2", "--data.batch_size=64"]
    x = main([PLAIN[0], f"--model={__name__}.Watched", *PLAIN[2:], *args])
    (test,) = tests
    net, losses = x.task.initial, []
    for rate, (images, targets) in zip(np.geomspace(1e-3, 1, 30), x.task.batches, strict=True):  # 21 in an epoch
        loss = torch.nn.functional.cross_entropy(net(images), targets)
        for p, gradient in zip(net.parameters(), torch.autograd.grad(loss, [*net.parameters()]), strict=True):
            p.data -= rate * gradient
        losses.append(loss.item())
    assert test.losses == pytest.approx(losses, rel=1e-4)
    printed = capsys.readouterr().out
    assert f"to use it   --model.lr={test.suggestions()['valley']:g}" in printed
    assert imread("find_lr.png").shape[1] > 500
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["configs", "find_lr.png"]


class Slope(PlainModule):
    """Has one weight, whose gradient is 1, so that each step subtracts the learning rate; the loss is the weight."""

    groups = (1.0, 0.1)

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.net, self.weights = (
            torch.nn.Identity(),
            torch.nn.ParameterList([torch.nn.Parameter(torch.ones(())) for _ in range(2)]),
        )

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: ARG002
        return self.weights[0] + self.weights[1]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(
            [{"params": w, "lr": self.lr * k} for w, k in zip(self.weights, self.groups, strict=True)]
        )


def test_all_parameter_groups_are_scaled_together(tests: list[RangeTest]) -> None:
    main([*PLAIN[:1], f"--model={__name__}.Slope", *PLAIN[2:], "--low=1e-4", "--high=1e-2", "--steps=20"])
    (test,) = tests
    sums = np.concatenate([[0], np.cumsum(test.rates[:-1])])
    assert test.losses == pytest.approx((2 - 1.1 * sums).tolist(), rel=1e-5)
    weights = [2 - 1.1 * each for each in sums]
    running = [np.average(weights[: i + 1], weights=0.98 ** np.arange(i, -1, -1)) for i in range(20)]
    assert test.smoothed == pytest.approx(running, rel=1e-5)


def test_a_task_is_scaled_from_its_rate_not_that_of_its_warm_up(
    tests: list[RangeTest], capsys: pytest.CaptureFixture[str]
) -> None:
    groups = "--model.groups=[{match: head.weight, lr: 0.01}]"
    x = main(["find_lr", "--config=configs/digits.yaml", "--model.warmup_steps=50", groups, "--steps=40", "--low=1e-4"])
    assert tests[0].configured == 4e-3
    rates = {group["lr"] for group in x.trainer.optimizers[0].param_groups}
    last = tests[0].rates[-1]
    assert sorted(rates) == pytest.approx([last, 2.5 * last])
    printed = capsys.readouterr().out
    assert "to use it   --model.optimizer.lr=" in printed
    assert "and multiply lr of model.groups by" in printed


def test_a_diverging_loss_ends_the_test(tests: list[RangeTest], capsys: pytest.CaptureFixture[str]) -> None:
    main([*PLAIN, "--high=1e6", "--steps=60"])
    assert len(tests[0].losses) < 60
    assert "the loss diverged above" in capsys.readouterr().out


def test_a_loss_that_does_not_fall_gives_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    main([*PLAIN, "--low=1e-9", "--high=1e-8", "--steps=20"])
    printed = capsys.readouterr().out
    assert "suggestion  none, because the loss does not fall" in printed
    assert "to use it" not in printed


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--low=1", "--high=0.1"], "--low must be more than 0 and less than --high, got 1 and 0.1"),
        (["--low=nan"], "--low must be more than 0"),
        (["--steps=3"], "--steps must be in [20, 10000], got 3"),
        (["--model.lr=0"], "needs an optimizer with a learning rate above 0; PlainModule has none"),
        (["--model=tests.own_code.Gan"], "needs automatic optimization, but Gan steps its optimizers itself"),
        (["--trainer.devices=2"], "find_lr needs one process and device"),
        (["--output=missing/lr.png", "--steps=20"], "cannot write missing/lr.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_tested_is_refused(args: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refused(capsys, *PLAIN, *args)
