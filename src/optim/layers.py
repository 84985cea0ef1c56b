"""The layers of a net, in the order in which the net registers them."""

from collections.abc import Iterator

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layer_ids(net: nn.Module, no_decay: set[nn.Parameter]) -> dict[nn.Parameter, int]:
    """Map each parameter to the number of its layer, from 0; ``no_decay`` parameters form no layer of their own.

    The search descends into the net itself, containers (Sequential, ModuleList, ModuleDict) and modules that hold
    lists of blocks, such as a transformer's encoder. Every other module is one layer. Norms and parameters outside of
    layers, such as a class token or a position embedding, belong to the previous layer, or else to the first.
    """
    ids: dict[nn.Parameter, int] = {}
    while len(children := children_with_parameters(net)) == 1 and not any(True for _ in net.parameters(recurse=False)):
        (net,) = children  # a wrapper is not a layer
    layer = -1
    for parameters, may_be_layer in flatten_blocks(net, no_decay):
        layer += may_be_layer and not no_decay.issuperset(parameters)
        ids = dict.fromkeys(parameters, max(layer, 0)) | ids  # a shared parameter keeps its first layer
    return ids


def flatten_blocks(module: nn.Module, no_decay: set[nn.Parameter]) -> Iterator[tuple[list[nn.Parameter], bool]]:
    """Yield lists of parameters, each with whether they can form a layer of their own."""
    children = children_with_parameters(module)
    yield list(module.parameters(recurse=False)), not children
    for child in children:
        if isinstance(child, CONTAINERS) or holds_blocks(child, no_decay):
            yield from flatten_blocks(child, no_decay)
        else:
            yield list(child.parameters()), True


def children_with_parameters(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if any(True for _ in child.parameters())]


def holds_blocks(module: nn.Module, no_decay: set[nn.Parameter]) -> bool:
    """Check whether containers inside a module hold several blocks: a stack of layers, not the branches of one."""
    containers = [inner for inner in module.modules() if isinstance(inner, CONTAINERS)]
    held = [child for container in containers for child in container.children() if not isinstance(child, CONTAINERS)]
    return sum(len(set(child.parameters()) - no_decay) > 1 for child in held) > 1
