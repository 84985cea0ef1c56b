"""GradientCheckpointing: less memory for more computing."""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from src import UserError


class GradientCheckpointing(Callback):
    """Keep only the inputs of blocks of a net and compute what is inside again in backward; arXiv:1604.06174.

    A step takes about a third longer; what is learned is the same to the bit.

    Args:
        blocks: regular expression that the whole name of a class must match for its modules to be blocks; blocks
            within a block are part of it.
    """

    def __init__(self, blocks: str = ".*(Block|Bottleneck|Residual)") -> None:
        try:
            self.pattern = re.compile(blocks)
        except re.error as error:
            raise ValueError(f"blocks must be a regular expression, got {blocks!r} ({error})") from None
        self.blocks: list[nn.Module] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        if stage != "fit":
            return
        self.blocks = list(dict.fromkeys(self.outermost(pl_module)))
        if not self.blocks:
            inner = [m for m in pl_module.modules() if len([*m.children()]) and len([*m.parameters()])][1:]
            names = dict.fromkeys(type(module).__name__ for module in inner)
            raise UserError(f"blocks must match one of the net's ({', '.join(names)}), got {self.pattern.pattern}")
        for block in self.blocks:
            block.forward = partial(forward, block)  # type: ignore[method-assign]

    def outermost(self, module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if self.pattern.fullmatch(type(child).__name__):
                yield child
            else:
                yield from self.outermost(child)

    def undo(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        for block in self.blocks:
            vars(block).pop("forward", None)  # of another one of these
        self.blocks = []

    teardown = on_exception = undo


def forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    plain = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return plain(*args, **kwargs)
    if torch.compiler.is_compiling():  # there buffers change once by themselves
        return checkpoint(plain, *args, use_reentrant=False, **kwargs)
    return checkpoint(plain, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), Buffers(block)), **kwargs)


class Buffers:
    """Lets a block compute with copies of the buffers that it has now: batch norms must not count a batch twice."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.then = {name: buffer.clone() for name, buffer in block.named_buffers()}

    def __enter__(self) -> None:
        self.now = dict(self.block.named_buffers())
        self.put({name: buffer.clone() for name, buffer in self.then.items()})

    def __exit__(self, *args: object) -> None:
        self.put(self.now)

    def put(self, buffers: dict[str, Tensor]) -> None:
        for name, buffer in buffers.items():
            owner, _, last = name.rpartition(".")
            setattr(self.block.get_submodule(owner), last, buffer)
