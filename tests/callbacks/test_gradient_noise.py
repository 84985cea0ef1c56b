"""Gradients get normal noise whose variance decays with the steps, the same in all processes."""

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.callbacks import GradientNoise
from src.cli import main
from tests.callbacks.conftest import QUIET
from tests.conftest import SMALL

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Walk(LightningModule):
    """Takes steps of size 1 along gradients of zero, so that each step is the negative noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.idle = nn.Parameter(torch.zeros(100, 100)), nn.Parameter(torch.zeros(3))
        self.steps: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        return (self.weight * 0).sum()

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        self.steps.append(self.weight.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_variance_decays_with_optimizer_steps(accumulate):
    noise = GradientNoise(0.3, 0.8)
    trainer = Trainer(max_steps=20, accumulate_grad_batches=accumulate, callbacks=[noise], **QUIET)
    torch.manual_seed(0)
    model = Walk()
    trainer.fit(model, DataLoader(torch.zeros(40), batch_size=1))
    steps = torch.stack([*model.steps, model.weight.detach()]).diff(dim=0)
    expected = torch.tensor([0.3 / (1 + t) ** 0.8 for t in range(20)]).sqrt()
    torch.testing.assert_close(steps.std((1, 2)), expected, rtol=0.03, atol=0)  # 4 standard deviations
    assert ((steps.mean((1, 2)) / expected).abs() < 0.04).all()
    assert ((steps.abs() < expected[:, None, None]).float().mean((1, 2)) - 0.6827).abs().max() < 0.02
    assert steps.flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.05
    assert model.idle.grad is None


def add_noise(callback: GradientNoise, step: int = 3, dtype: torch.dtype = torch.float) -> Tensor:
    """Return the noise of a step."""
    p = nn.Parameter(torch.zeros(50, dtype=dtype))
    p.grad = torch.zeros_like(p)
    module, optimizer = SimpleNamespace(device="cpu"), torch.optim.SGD([p], lr=1)
    callback.on_before_optimizer_step(SimpleNamespace(global_step=step), module, optimizer)
    assert p.grad.dtype == dtype
    return p.grad


def set_up(seed: int, rank_zero_seed: int | None = None) -> GradientNoise:
    """Return the callback of a process, whose generators have a seed, in a run with another seed in process 0."""
    torch.manual_seed(seed)
    strategy = SimpleNamespace(broadcast=lambda own: own if rank_zero_seed is None else rank_zero_seed)
    callback = GradientNoise()
    callback.setup(SimpleNamespace(strategy=strategy), None, "fit")
    return callback


def test_noise_depends_on_the_seed_and_the_step_alone():
    callback = set_up(1)
    noise = add_noise(callback)
    torch.rand(3)
    assert add_noise(callback).equal(noise)
    assert add_noise(set_up(1)).equal(noise)
    assert not add_noise(callback, step=4).isclose(noise).any()
    callback = set_up(2**32 - 1)  # the largest seed that Lightning accepts
    assert not add_noise(callback).isclose(noise).any()
    assert add_noise(callback, dtype=torch.bfloat16).isfinite().all()


def test_a_run_from_a_config_uses_its_seed():
    args = ["--trainer.callbacks+=src.callbacks.GradientNoise", "--trainer.fast_dev_run=1", "--seed_everything=7"]
    callbacks = main(["fit", *SMALL, *args]).trainer.callbacks
    assert [callback.seed for callback in callbacks if isinstance(callback, GradientNoise)] == [7]


def test_every_process_adds_the_noise_of_process_zero():
    assert add_noise(set_up(2, rank_zero_seed=1)).equal(add_noise(set_up(1)))


def test_a_resumed_run_keeps_the_seed_of_its_noise():
    callback = set_up(2)
    callback.load_state_dict(set_up(1).state_dict())
    assert add_noise(callback).equal(add_noise(set_up(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eta": -1}, "eta must be at least 0, got -1"),
        ({"gamma": -0.5}, "gamma must be at least 0, got -0.5"),
        ({"gamma": float("nan")}, "gamma must be at least 0, got nan"),
    ],
)
def test_an_invalid_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradientNoise(**arguments)
