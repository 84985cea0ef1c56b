"""FSDP2: which modules gather their weights, and what cannot be divided; runs are in test_fit_processes.py."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, TensorDataset

from src import UserError
from src.config.arguments import read
from src.config.parser import parse
from src.engine.sharding import FSDP2
from tests.conftest import SMALL


class Blocks(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        block = [nn.Linear(10, 10), nn.ReLU()]  # 110 parameters
        self.net = nn.Sequential(nn.Sequential(*block, *block), nn.Linear(10, 2), nn.ModuleList([nn.Linear(10, 10)]))
        self.loss = nn.CrossEntropyLoss()


@pytest.fixture
def strategy(tmp_path: Path) -> Iterator[Any]:
    """Return a strategy with a group of this process alone."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    made = FSDP2(min_params=110)
    made._device_mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
    yield made
    distributed.destroy_process_group()


def test_the_innermost_large_modules_and_the_children_gather_their_weights(strategy: Any) -> None:
    module = Blocks()
    strategy._lightning_module = module
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for _ in range(2):  # in each stage
        strategy.shard_module()
    assert [name for name, each in module.named_modules() if isinstance(each, FSDPModule)] == [
        "net",
        "net.0.0",
        "net.2.0",
    ]
    assert all(torch.equal(p.full_tensor(), before[name]) for name, p in module.named_parameters())


def test_weights_outside_of_a_child_are_refused(strategy: Any) -> None:
    module = Blocks()
    module.scale = nn.Parameter(torch.ones(3))
    strategy._lightning_module = module
    with pytest.raises(UserError, match="FSDP2 divides children of Blocks that are called, but scale is of none"):
        strategy.shard_module()


def test_a_checkpoint_without_optimizers_can_be_evaluated(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy._lightning_module = SimpleNamespace(trainer=SimpleNamespace(state=SimpleNamespace(fn="test")))
    strategy._optimizers, seen = [1], []
    parent = FSDP2.__mro__[1]
    monkeypatch.setattr(parent, "load_checkpoint", lambda self, *_: seen.append(self.optimizers) or {"epoch": 3})
    assert strategy.load_checkpoint("best.ckpt") == {"epoch": 3, "state_dict": {}}
    assert seen == [[]]


def test_it_is_evaluated_outside_of_inference_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In inference mode, which Lightning uses with GPUs, torch 2.11 cannot gather the weights of one process."""
    monkeypatch.setattr("lightning.pytorch.loops.utilities.dist", SimpleNamespace(get_backend=lambda: "nccl"))
    module = Blocks()
    module.net = nn.Sequential(nn.Linear(10, 2))
    monkeypatch.setattr(module, "predict_step", lambda *_, **__: torch.tensor(torch.is_inference_mode_enabled()))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(strategy=FSDP2(), accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet)
    try:
        assert trainer.predict(module, DataLoader(TensorDataset(torch.ones(1, 10)))) == [torch.tensor(False)]
    finally:
        distributed.destroy_process_group()


def test_the_preset_needs_no_trust() -> None:
    x = parse(read(["fit", *SMALL, "--config=configs/presets/fsdp.yaml", "--trainer.strategy.min_params=10"])[0])
    assert x.trainer.strategy.class_path == "src.engine.sharding.FSDP2"
    assert x.trainer.strategy.init_args.min_params == 10
