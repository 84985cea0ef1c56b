"""FSDP2 for any module: weights, gradients and optimizer state divided among processes."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from src import require


class FSDP2(ModelParallelStrategy):
    """Divide the weights of the children of a LightningModule, such as ``net``, among all processes.

    A module gathers its weights for its forward and backward pass if it has at least ``min_params`` parameters that no
    module within it gathers; so does each child. torch's ``fully_shard``, arXiv:2304.11277. A checkpoint is one file,
    which any number of processes can load. ``channels_last`` is undone, since ``fully_shard`` refuses such weights.
    """

    def __init__(self, min_params: int = 1_000_000) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.min_params = max(1, min_params)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        module: Any = self.lightning_module
        module.configure_model = self.shard_module  # called in each stage, before there are optimizers
        fit, *others = (getattr(module.trainer, f"{stage}_loop") for stage in ("fit", "validate", "test", "predict"))
        for loop in (fit.epoch_loop.val_loop, *others):
            loop.inference_mode = False  # in which torch 2.11 fails with one process

    def shard_module(self) -> None:
        module: Any = self.lightning_module
        if any(isinstance(p, DTensor) for p in module.parameters()):
            return
        for p in module.parameters():
            p.data = p.data.contiguous()
        for child in module.children():
            if self.shard(child):
                fully_shard(child, **self.layout())
        whole = [name for name, p in module.named_parameters() if not isinstance(p, DTensor)]
        name = type(module).__name__
        require(not whole, f"FSDP2 divides children of {name} that are called, but {[*whole, ''][0]} is of none")

    def shard(self, module: nn.Module) -> int:
        """Divide large modules, the innermost first; return the number of parameters that are left."""
        left = sum(p.numel() for p in module.parameters(recurse=False)) + sum(map(self.shard, module.children()))
        if left < self.min_params or isinstance(module, nn.ModuleList | nn.ModuleDict):
            return left
        fully_shard(module, **self.layout())
        return 0

    def layout(self) -> dict[str, Any]:
        """Return settings of ``fully_shard``; by default, validation would leave some weights gathered."""
        return {"mesh": self.device_mesh["data_parallel"], "reshard_after_forward": True}

    def on_validation_start(self) -> None:
        for buffer in self.lightning_module.buffers():  # type: ignore[union-attr]  # of batch norm; DDP does it in each step
            torch.distributed.broadcast(buffer, 0)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        module: Any = self.lightning_module
        if module.trainer.state.fn != "fit":  # best.ckpt has no state of the optimizers that fit leaves behind
            self.optimizers = []
        return {"state_dict": {}} | super().load_checkpoint(checkpoint_path, weights_only)  # it took the weights
