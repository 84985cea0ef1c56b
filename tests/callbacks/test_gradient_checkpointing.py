"""Blocks are recomputed in the backward pass, and only memory changes."""

import copy
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.models.resnet import BasicBlock

from src import UserError
from src.callbacks import GradientCheckpointing
from src.cli import main
from tests.callbacks.conftest import QUIET
from tests.conftest import FIT, same, weights


class DropBlock(nn.Sequential):
    """A block with everything that could differ when it is recomputed."""

    def __init__(self, in_channels: int, out_channels: int, momentum: float | None = 0.1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels, momentum=momentum),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(out_channels, out_channels, kernel_size=1)),
            nn.InstanceNorm2d(out_channels, momentum=0.3, track_running_stats=True),
        )


class Net(LightningModule):
    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = DropBlock(1, 8, momentum), BasicBlock(8, 8), DropBlock(8, 4, momentum)
        self.net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.losses: list[Tensor] = []
        self.mib_saved = 0.0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = cross_entropy(self.net(batch[0]), batch[1])
        self.mib_saved = sum(sizes.values()) / 2**20
        self.losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.losses.append(cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(model: LightningModule, *callbacks: GradientCheckpointing, **settings: Any) -> None:
    trainer = Trainer(max_epochs=1, callbacks=list(callbacks), **QUIET, **settings)
    torch.manual_seed(1)
    samples = list(zip(torch.randn(12, 1, 16, 16), torch.randint(3, (12,)), strict=True))
    trainer.fit(model, DataLoader(samples, batch_size=4), DataLoader(samples, batch_size=4))


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}], ids=str)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_state_and_losses_are_the_same_bit_for_bit_in_half_the_memory(momentum, settings):
    plain, frugal = Net(momentum), Net(momentum)
    fit(plain, **settings)
    fit(frugal, GradientCheckpointing(), **settings)
    assert len(plain.losses) == 2 + 3 + 3
    assert torch.equal(torch.stack(plain.losses), torch.stack(frugal.losses))
    assert plain.state_dict()["net.0.1.num_batches_tracked"] == 3
    assert list(plain.state_dict()) == list(frugal.state_dict())
    assert same(dict(plain.state_dict()), dict(frugal.state_dict()))
    assert 0 < frugal.mib_saved < plain.mib_saved / 2


def test_a_retained_graph_gives_the_same_gradients_twice():
    nets = [Net().net, Net().net]
    GradientCheckpointing().setup(None, nn.ModuleList(nets[:1]), "fit")
    found = []
    for net in nets:
        torch.manual_seed(0)
        loss = net(torch.randn(4, 1, 8, 8)).square().sum()
        found.append([torch.autograd.grad(loss, net.parameters(), retain_graph=True) for _ in range(2)])
    for once, twice, expected in zip(*found[0], found[1][0], strict=True):
        assert torch.equal(once, expected)
        assert torch.equal(twice, expected)


def test_compiled_nets_have_the_same_gradients_and_buffers():
    nets = [Net().net[1], Net().net[1]]
    GradientCheckpointing().setup(None, nn.ModuleList([nn.Sequential(nets[0])]), "fit")
    images = torch.randn(4, 8, 8, 8)
    for net in nets:
        torch.compile(net, backend="aot_eager")(images).square().mean().backward()
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(p.grad, q.grad)
    for p, q in zip(*(net.buffers() for net in nets), strict=True):
        assert torch.equal(p, q)


def wrapped(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.modules() if "forward" in vars(child)]


class Outer(nn.Sequential):
    pass


def test_only_outermost_matches_are_wrapped_and_only_in_training():
    inner = DropBlock(1, 1)
    outer = Outer(inner, inner, DropBlock(1, 1))
    model = nn.Sequential(outer, inner, nn.Conv2d(1, 1, 1))
    callback = GradientCheckpointing("Outer|DropBlock")
    for stage in ("validate", "test", "predict"):
        callback.setup(None, model, stage)
        assert wrapped(model) == []
    before = list(model.state_dict())
    callback.setup(None, model, "fit")
    assert wrapped(model) == [outer, inner]
    assert list(model.state_dict()) == before
    callback.teardown(None, model, "fit")
    assert wrapped(model) == []
    callback = GradientCheckpointing("Drop.*")
    callback.setup(None, model, "fit")
    assert wrapped(model) == [inner, outer[2]]
    callback.teardown(None, model, "fit")
    assert wrapped(model) == []


def test_a_deep_copy_computes_with_its_own_weights():
    model = nn.Sequential(DropBlock(1, 2))
    GradientCheckpointing().setup(None, model, "fit")
    twin = copy.deepcopy(model)
    twin(torch.randn(2, 1, 4, 4)).square().sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in twin.parameters())


def test_blocks_are_not_checkpointed_without_gradients(monkeypatch):
    model = nn.Sequential(DropBlock(1, 2))
    GradientCheckpointing().setup(None, model, "fit")
    monkeypatch.delattr("src.callbacks.gradient_checkpointing.checkpoint")
    with torch.no_grad():
        model(torch.randn(2, 1, 4, 4))


def test_blocks_are_unwrapped_after_an_error(monkeypatch):
    model = Net()
    monkeypatch.setattr(model, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, GradientCheckpointing())
    assert wrapped(model) == []


def test_blocks_that_match_nothing_are_refused_with_the_class_names():
    with pytest.raises(UserError, match=r"blocks must match one of the net's \(Sequential, DropBlock, .*\), got Foo"):
        fit(Net(), GradientCheckpointing("Foo"))


def test_an_invalid_regular_expression_is_refused():
    with pytest.raises(ValueError, match=r"blocks must be a regular expression, got '\('"):
        GradientCheckpointing("(")


def test_a_run_from_a_config_has_the_same_weights(capsys):
    command = [*FIT, "--trainer.limit_train_batches=3", "--trainer.max_epochs=1"]
    main(command)
    main([*command, "--trainer.callbacks+=src.callbacks.GradientCheckpointing"])
    assert same(weights("runs/digits/version_0"), weights("runs/digits/version_1"))
    assert capsys.readouterr().err == ""
