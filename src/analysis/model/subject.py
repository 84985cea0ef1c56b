"""What the checks of a model are made on: a module with a small batch, the calls of its nets, and its state."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from src.analysis.model.spies import hookable


@dataclass
class Check:
    """A result. ``ok`` is None if nothing was decided; ``figure`` then says why."""

    ok: bool | None
    figure: str
    advice: str = ""  # what to do about a failure


@dataclass
class Call:
    """A call of a module, or of one of its children, by a training step."""

    name: str
    owner: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass
class Subject:
    """A module to check, and how to take its training step."""

    module: nn.Module
    batch: Any  # a small one, N samples
    loss: Callable[[Any], Tensor | None]  # of a batch, in train mode, with its graph
    step: Callable[[Any], float | None]  # one step of the optimizers; returns the loss
    context: Callable[[], AbstractContextManager[Any]]  # autocast, if any
    optimizers: list[Any]

    def outputs(self, call: Call, args: Any = None) -> list[Tensor]:
        """Return the float tensors that a call returns again, in the current mode, without gradients."""
        given, named = args or (call.args, call.kwargs)
        with torch.no_grad(), self.context():
            return [each.float() for each in floats(call.owner(*given, **named))]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Restore parameters, buffers, modes, optimizers and random numbers afterwards."""
        every = [*self.module.parameters(), *self.module.buffers()]
        tensors = [each for each in every if not is_lazy(each)]  # whose first call makes them
        saved, modes = [each.detach().clone() for each in tensors], {m: m.training for m in self.module.modules()}
        states = [deepcopy(each.state_dict()) for each in self.optimizers]
        try:
            with self.own_draws():
                yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, saved, strict=True):
                    tensor.data.copy_(value)
                    tensor.grad = None
            for module, mode in modes.items():
                module.training = mode
            for optimizer, state in zip(self.optimizers, states, strict=True):
                optimizer.load_state_dict(state)

    def own_draws(self) -> AbstractContextManager[Any]:
        """Restore the state of torch's generators afterwards."""
        return torch.random.fork_rng([*{p.device for p in self.module.parameters() if p.is_cuda}])

    @contextmanager
    def double_losses(self) -> Iterator[None]:
        """Convert children without parameters, such as a loss with class weights, to double precision."""
        children = {n: m for n, m in self.module.named_children() if [*m.buffers()] and not [*m.parameters()]}
        for name, child in children.items():
            setattr(self.module, name, deepcopy(child).double())
        try:
            yield
        finally:
            for name, child in children.items():
                setattr(self.module, name, child)


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(each)


def floats(value: Any) -> list[Tensor]:
    return [each for each in tensors(value) if each.is_floating_point() and each.ndim]


def samples(value: Any) -> int:
    """Return the length N of most tensors of a batch, 0 without tensors."""
    lengths = [len(each) for each in tensors(value) if each.ndim]
    return max(lengths, key=lengths.count, default=0)


def pick(value: Any, n: int, index: Tensor | slice) -> Any:
    """Return the samples of a batch of n at ``index``; whatever does not have n of them stays as it is."""
    if isinstance(value, Tensor):
        own = index.to(value.device) if isinstance(index, Tensor) else index
        return value[own] if value.ndim and len(value) == n else value
    if isinstance(value, Mapping):
        picked: Any = copy(value)  # of the same class, such as BatchEncoding of transformers
        picked.update({key: pick(each, n, index) for key, each in value.items()})
        return picked
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(pick(each, n, index) for each in value))
    if isinstance(value, list | tuple):
        if len(value) != n or [*tensors(value)]:
            return type(value)([pick(each, n, index) for each in value])
        return value[index] if isinstance(index, slice) else type(value)([value[i] for i in index])
    return value


def find_calls(module: nn.Module, run: Callable[[], Any]) -> list[Call]:
    """Return the calls of the module or its children, not those within others, whose outputs are no scalars."""
    names = {m: name or type(m).__name__ for name, m in hookable(module) if "." not in name}
    inside: list[nn.Module] = []
    calls: list[Call] = []

    def leave(owner: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inside.pop()
        if not inside and floats(output):
            calls.append(Call(names[owner], owner, args, kwargs, output))

    with ExitStack() as hooks:
        for owner in names:
            hooks.callback(owner.register_forward_pre_hook(lambda m, _: inside.append(m)).remove)
            hooks.callback(owner.register_forward_hook(leave, with_kwargs=True).remove)
        run()
    return calls


@contextmanager
def replaced_output(owner: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return ``output`` whatever it is called with."""
    before = {"forward": vars(owner).pop("forward")} if "forward" in vars(owner) else {}
    vars(owner)["forward"] = lambda *args, **kwargs: output  # noqa: ARG005
    try:
        yield
    finally:
        del vars(owner)["forward"]
        vars(owner).update(before)
