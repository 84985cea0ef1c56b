"""GradientCheckpointing: less memory for more computation."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from src import UserError, compile_pattern


class GradientCheckpointing(Callback):
    """Keep only the inputs of a net's blocks and recompute their activations in the backward pass (arXiv:1604.06174).

    A step takes about a third longer; the trained weights are the same bit for bit.

    Args:
        blocks: regular expression for the full class names of the modules to use as blocks; a match inside a block
            belongs to that block.
    """

    def __init__(self, blocks: str = ".*(Block|Bottleneck|Residual|NormActivation)") -> None:
        self.pattern = compile_pattern("blocks", blocks)
        self.blocks: list[nn.Module] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        if stage != "fit":
            return
        modules = dict(pl_module.named_modules(remove_duplicate=False))
        names = [name for name, m in modules.items() if name and self.pattern.fullmatch(type(m).__name__)]
        outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
        self.blocks = list(dict.fromkeys(modules[name] for name in outermost))
        if not self.blocks:
            inner = [m for m in pl_module.modules() if len([*m.children()]) and len([*m.parameters()])][1:]
            kinds = dict.fromkeys(type(module).__name__ for module in inner)
            raise UserError(f"blocks must match one of the net's ({', '.join(kinds)}), got {self.pattern.pattern}")
        for block in self.blocks:
            block.forward = partial(forward, block)  # type: ignore[method-assign]

    def undo(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        for block in self.blocks:
            vars(block).pop("forward", None)  # a second such callback may have removed it
        self.blocks = []

    teardown = on_exception = undo


def forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    plain = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return plain(*args, **kwargs)
    if torch.compiler.is_compiling():  # the compiler already updates buffers only once
        return checkpoint(plain, *args, use_reentrant=False, **kwargs)
    recompute = SavedBuffers(block)
    return checkpoint(plain, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), recompute), **kwargs)


class SavedBuffers:
    """Recompute a block with copies of its current buffers, so that batch norm does not count a batch twice."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.saved = {name: buffer.clone() for name, buffer in block.named_buffers()}

    def __enter__(self) -> None:
        self.current = dict(self.block.named_buffers())
        self.assign({name: buffer.clone() for name, buffer in self.saved.items()})

    def __exit__(self, *args: object) -> None:
        self.assign(self.current)

    def assign(self, buffers: dict[str, Tensor]) -> None:
        for name, buffer in buffers.items():
            owner, _, attribute = name.rpartition(".")
            setattr(self.block.get_submodule(owner), attribute, buffer)
