"""SharedDraws: random numbers of a sample that do not depend on which process augments it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FACTORIES = {torch.rand, torch.randn, torch.randint}
IN_PLACE = {Tensor.uniform_, Tensor.normal_, Tensor.bernoulli_, Tensor.random_, Tensor.exponential_}


class SharedDraws(TorchFunctionMode):
    """Draw for all ``total`` samples of a batch, and keep what belongs to this process: ``count`` from ``start`` on.

    That is how one process would draw for the whole batch. It applies where torch draws a tensor (count, ...); any
    other draw, such as of a pair of samples, is independent in each process.
    """

    def __init__(self, seed: int, start: int, count: int, total: int) -> None:
        super().__init__()
        self.seed, self.start, self.count, self.total = seed, start, count, total
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None or func not in IN_PLACE | FACTORIES:
            return func(*args, **kwargs)
        if func in IN_PLACE and args[0].ndim and len(args[0]) == self.count:
            whole = args[0].new_empty(self.total, *args[0].shape[1:])
            return args[0].copy_(self.own(func, (whole, *args[1:]), kwargs, whole.device))
        numbers, size = (args[:-1], args[-1:]) if func is torch.randint else ((), args)
        shape = [*size[0]] if size and not isinstance(size[0], int) else [*size]
        if func in FACTORIES and shape and shape[0] == self.count:
            device = torch.device(kwargs.get("device") or "cpu")
            return self.own(func, (*numbers, (self.total, *shape[1:])), kwargs, device)
        return func(*args, **kwargs)

    def own(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], device: torch.device) -> Tensor:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return func(*args, **kwargs, generator=self.generators[device])[self.start : self.start + self.count]
