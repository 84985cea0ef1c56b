"""Gradients get normal noise whose variance fades with the steps, the same in all processes."""

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.callbacks import GradientNoise


class Walk(LightningModule):
    """Steps of size 1 against gradients that are 0: what it does is minus the noise."""

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


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_variance_falls_with_the_steps_of_the_optimizer(accumulate):
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu", max_steps=20, accumulate_grad_batches=accumulate, callbacks=[GradientNoise(0.3, 0.8)], **off
    )
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


def noise(step: int = 3, dtype: torch.dtype = torch.float) -> Tensor:
    """Return the noise that a process adds."""
    p = nn.Parameter(torch.zeros(50, dtype=dtype))
    p.grad = torch.zeros_like(p)
    task, optimizer = SimpleNamespace(device="cpu"), torch.optim.SGD([p], lr=1)
    GradientNoise().on_before_optimizer_step(SimpleNamespace(global_step=step), task, optimizer)
    assert p.grad.dtype == dtype
    return p.grad


def test_noise_depends_on_seed_and_step_alone_and_so_is_the_same_in_all_processes(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    torch.manual_seed(1)
    first = noise()
    torch.manual_seed(2)
    assert noise().equal(first)
    assert not noise(step=4).isclose(first).any()
    monkeypatch.setenv("PL_GLOBAL_SEED", str(2**32 - 1))  # the largest that Lightning takes
    assert not noise().isclose(first).any()
    assert noise(dtype=torch.bfloat16).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": -1}, "eta must be at least 0, got -1"),
        ({"gamma": -0.5}, "gamma must be at least 0, got -0.5"),
        ({"gamma": float("nan")}, "gamma must be at least 0, got nan"),
    ],
)
def test_invalid_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GradientNoise(**settings)
