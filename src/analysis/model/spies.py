"""What happens inside a training step: what losses are given, which units are always 0, what is kept for backward."""

import re
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

DISTANCES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
LOSSES = ("cross_entropy", "log_softmax", "nll_loss", "binary_cross_entropy_with_logits")
UNITS = ("relu", "relu_", "hardtanh", "gelu", "silu", "hardswish")  # torch's functions; relu6 is a hardtanh
SHAPING = ("ToCopy", "View", "UnsafeView", "Squeeze", "Unsqueeze", "Alias", "Reshape")  # nodes that keep the numbers
PROBABILITIES = "probabilities, but expects logits"


def hookable(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return name and module of all that can have hooks; those of TorchScript cannot."""
    return [(name, m) for name, m in module.named_modules() if not isinstance(m, torch.jit.ScriptModule)]


class Random(TorchFunctionMode):
    """Record which functions of torch draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self.names |= {name} if re.search("drop|rand|normal|bernoulli|multinomial|rrelu", name) else set()
        return func(*args, **(kwargs or {}))


class Spy(TorchFunctionMode):
    """Record the losses of torch with what is wrong with their input, and the share of dead units of each layer.

    A unit, a channel or a neuron, is dead if its activation is 0 for the whole batch.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.names, self.hooks = module, [""], ExitStack()
        self.losses: list[tuple[str, str]] = []  # name and problem, empty if there is none
        self.dead: list[tuple[str, float, int]] = []  # name of the layer, share of dead units, units

    def __enter__(self) -> Any:
        for name, each in hookable(self.module):
            enter = lambda *_, name=name: self.names.append(name)  # noqa: E731
            self.hooks.callback(each.register_forward_pre_hook(enter).remove)
            self.hooks.callback(each.register_forward_hook(lambda *_: self.names.__delitem__(-1)).remove)
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self.hooks.close()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        given = args[0] if args else kwargs.get("input")
        if name in LOSSES and isinstance(given, Tensor):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None) if name == "log_softmax" else 1
            dim = dim if isinstance(dim, int) else -1
            self.losses.append((name, problem_of(name, given, dim)))
        if name in DISTANCES and isinstance(given, Tensor):
            shapes = [tuple(each.shape) for each in (given, args[1] if len(args) > 1 else kwargs["target"])]
            self.losses.append((name, f"outputs {shapes[0]} for targets {shapes[1]}" if shapes[0] != shapes[1] else ""))
        output = func(*args, **kwargs)
        if name in UNITS and output.ndim > 1:
            axis = 2 if output.ndim == 3 else 1  # (N, L, C), but (N, C) and (N, C, H, W)
            dead = (output.detach().movedim(axis, 0).flatten(1) == 0).all(1).float()
            pooled = output.ndim > 3 and output[0, 0].numel() == 1  # such units hardly vary over a batch
            self.dead.append((self.names[-1], float(dead.min() if pooled else dead.mean()), len(dead)))
        return output


def problem_of(name: str, given: Tensor, dim: int) -> str:
    """Return what is wrong with the input of a loss, logits or log-probabilities of classes at ``dim``."""
    node: Any = given.grad_fn
    while node is not None and node.name().rstrip("0123456789").removesuffix("Backward") in SHAPING:
        node = node.next_functions[0][0]
    if node is not None and node.name().startswith(("Sigmoid", "Softmax")) and name != "nll_loss":
        return PROBABILITIES
    if name == "binary_cross_entropy_with_logits":  # small logits may all be in (0, 1)
        return ""
    values = given.detach().float()
    if values.ndim < 2 or values.shape[dim] < 2 or not values.numel():
        return ""
    if name == "nll_loss":
        return "" if (values.logsumexp(dim).abs() < 0.05).all() else "other numbers, but expects log-probabilities"
    sums_to_1 = ((values.sum(dim) - 1).abs() < 0.02).all() and (values >= 0).all()
    return PROBABILITIES if sums_to_1 else ""


class SavedBytes:
    """Count the bytes that autograd keeps for backward, without parameters; each storage once."""

    def __init__(self, module: nn.Module) -> None:
        self.known = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.sizes: dict[int, int] = {}
        self.hooks = saved_tensors_hooks(self.pack, lambda tensor: tensor)

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def of(self, loss: Any) -> int:
        """Return the bytes that the graph of ``loss()`` keeps."""
        self.sizes.clear()
        with torch.enable_grad(), self.hooks:
            kept = loss()
        del kept
        return sum(self.sizes.values())
