"""Parameter groups by rules and layers, and the optimizer over them."""

import difflib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from src import UserError, compile_pattern, require

Rule = dict[str, Any]
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def build_optimizer(
    net: nn.Module, optimizer: Callable[[list[dict[str, Any]]], Optimizer], rules: list[Rule] | None, layer_decay: float
) -> Optimizer:
    """Call ``optimizer`` with the ``param_groups`` of a net; refuse rules that it does not accept."""
    built = optimizer(param_groups(net, rules, layer_decay))
    check_settings(built, rules or [])
    for group in built.param_groups:
        if "lr_scale" in group:
            group["lr"] = group["lr"] * group.pop("lr_scale")  # not in place: groups may share one tensor
    return built


def param_groups(net: nn.Module, rules: list[Rule] | None = None, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Split trainable parameters into groups; biases and norms get no weight decay unless a rule sets it.

    ``rules`` are the ``groups`` of ``src.tasks.Task``: the first that matches applies. ``layer_decay`` is the ratio of
    each layer's learning rate to the next layer's (arXiv:1801.06146, section 3.2, and arXiv:2106.08254). A group stores
    its factor as ``lr_scale``, unless that is 1 or the rule sets ``lr``.
    """
    require(0 < layer_decay <= 1, f"layer_decay must be in (0, 1], got {layer_decay}")
    rules = rules or []
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    rule_numbers = assign_rules(list(named), rules)
    settings = [{}, *map(without_match, rules)]
    exempt = no_decay_params(net)
    layers = layer_ids(net, exempt) if layer_decay < 1 else {}
    last = max(layers.values(), default=0)
    members: dict[tuple[int, int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, p in named.items():
        number = rule_numbers[name]
        later_layers = 0 if "lr" in settings[number] else last - layers.get(p, last)
        members[number, later_layers, p in exempt].append(p)
    return [
        {"params": members[number, later_layers, no_decay]}
        | ({"weight_decay": 0.0} if no_decay else {})
        | ({"lr_scale": layer_decay**later_layers} if later_layers else {})
        | settings[number]
        for number, later_layers, no_decay in sorted(members)
    ]


def without_match(rule: Rule) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key != "match"}


def assign_rules(names: list[str], rules: list[Rule]) -> dict[str, int]:
    """Map each parameter name to the number of the first matching rule, from 1, or to 0."""
    assigned = dict.fromkeys(names, 0)
    for number, rule in enumerate(rules, 1):
        match = rule.get("match")
        if not isinstance(match, str):
            raise UserError(f"groups: each rule needs match, a regular expression for parameter names, got {rule}")
        pattern = compile_pattern("groups: match", match)
        matched = [name for name in names if pattern.fullmatch(name)]
        if not matched:
            closest = ", ".join(difflib.get_close_matches(match, names, n=3, cutoff=0))
            raise UserError(f"groups: {match!r} matches no trainable parameter; closest: {closest}")
        unassigned = [name for name in matched if not assigned[name]]
        require(unassigned, f"groups: rule {match!r} is never used, because earlier rules match all its parameters")
        assigned |= dict.fromkeys(unassigned, number)
    return assigned


def no_decay_params(net: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that should not decay: biases, norms and all others with at most one axis."""

    def no_decay(module: nn.Module, name: str, p: nn.Parameter) -> bool:
        if isinstance(p, nn.UninitializedParameter):  # a lazy parameter has no shape yet
            return name == "bias" or isinstance(module, _NormBase)
        return p.ndim <= 1

    return {p for m in net.modules() for name, p in m.named_parameters(recurse=False) if no_decay(m, name, p)}


def layer_ids(net: nn.Module, no_decay: set[nn.Parameter]) -> dict[nn.Parameter, int]:
    """Map each parameter to the number of its layer, from 0; ``no_decay`` parameters form no layer of their own.

    The search descends into the net itself, containers (Sequential, ModuleList, ModuleDict) and modules that hold
    lists of blocks, such as a transformer's encoder. Every other module is one layer. Norms and parameters outside of
    layers, such as a class token or a position embedding, belong to the previous layer, or else to the first.
    """
    ids: dict[nn.Parameter, int] = {}
    while len(children := children_with_parameters(net)) == 1 and not [*net.parameters(recurse=False)]:
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
    return [child for child in module.children() if [*child.parameters()]]


def holds_blocks(module: nn.Module, no_decay: set[nn.Parameter]) -> bool:
    """Check whether containers inside a module hold several blocks: a stack of layers, not the branches of one."""
    containers = [inner for inner in module.modules() if isinstance(inner, CONTAINERS)]
    held = [child for container in containers for child in container.children() if not isinstance(child, CONTAINERS)]
    return sum(len(set(child.parameters()) - no_decay) > 1 for child in held) > 1


def check_settings(optimizer: Optimizer, rules: list[Rule]) -> None:
    """Reject settings of rules that the optimizer lacks or would reject for all parameters; torch checks no group."""
    kind, defaults = type(optimizer), optimizer.defaults
    for rule in rules:
        for key, value in (settings := without_match(rule)).items():
            require(isinstance(key, str), f"groups: names of settings must be strings, got {key}")
            near = difflib.get_close_matches(key, defaults, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(defaults)}"
            require(key in defaults, f"groups: {kind.__name__} has no setting {key}; {hint}")
            expected = describe_kind(defaults[key])
            require(same_kind(defaults[key], value), f"groups: {key} must be {expected}, got {value!r}")
        accepted = (defaults | settings).keys() & inspect.signature(kind).parameters
        try:
            with suppress(TypeError):  # an optimizer may store its settings under names that it does not accept
                kind([nn.Parameter(torch.zeros(1, 1))], **{key: (defaults | settings)[key] for key in accepted})
        except ValueError as error:
            raise UserError(f"groups: {rule['match']!r}: {error}") from None


def same_kind(default: Any, value: Any) -> bool:
    """Check that a value can replace a default that is a bool, a number or a tuple of them; accept any other."""
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and len(value) == len(default) and all(map(same_kind, default, value))
    return describe_kind(default) in ("", describe_kind(value))


def describe_kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} numbers"
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else ""
