"""The layers of a net, counted in the order in which it registers them."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def vectors(net: nn.Module) -> set[nn.Parameter]:
    """Return biases, norms and whatever else is no matrix or filter."""
    return {
        p for module in net.modules() for name, p in module.named_parameters(recurse=False) if flat(module, name, p)
    }


def flat(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    if isinstance(parameter, nn.UninitializedParameter):  # of a lazy module: has no shape yet
        return name == "bias" or isinstance(module, _NormBase)
    return parameter.ndim <= 1


def layer_numbers(net: nn.Module) -> dict[nn.Parameter, int]:
    """Return the number of the layer that each parameter belongs to, from 0.

    Opened are the net itself, lists (Sequential, ModuleList, ModuleDict) and what holds lists of blocks, such as the
    encoder of a transformer; anything else is one layer. Norms and parameters beside layers, such as a class token or
    embedded positions, belong to the layer before them, or else to the first.
    """
    outside, number = vectors(net), -1
    numbers: dict[nn.Parameter, int] = {}
    while len(children := with_parameters(net)) == 1 and not any(True for _ in net.parameters(recurse=False)):
        (net,) = children
    for parameters, is_layer in opened(net):
        number += is_layer and not outside.issuperset(parameters)
        numbers = dict.fromkeys(parameters, max(number, 0)) | numbers  # a shared one stays where it came first
    return numbers


def opened(module: nn.Module) -> Iterator[tuple[list[nn.Parameter], bool]]:
    """Yield parameters with whether they may be a layer of their own."""
    children = with_parameters(module)
    yield list(module.parameters(recurse=False)), not children
    for child in children:
        if isinstance(child, LISTS) or holds_blocks(child):
            yield from opened(child)
        else:
            yield list(child.parameters()), True


def with_parameters(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if any(True for _ in child.parameters())]


def holds_blocks(module: nn.Module) -> bool:
    """Tell whether lists within a module hold several blocks: a stack of layers, not the branches of one."""
    lists = [inner for inner in module.modules() if isinstance(inner, LISTS)]
    return sum(is_block(child) for inner in lists for child in inner.children()) > 1


def is_block(module: nn.Module) -> bool:
    return not isinstance(module, LISTS) and len(set(module.parameters()) - vectors(module)) > 1
