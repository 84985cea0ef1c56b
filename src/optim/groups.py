"""Parameter groups: which parameters are trained with which settings, and the optimizer over them."""

import difflib
import inspect
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from src import UserError, require
from src.optim.schedules import with_warmup


def optimizer_and_schedule(
    net: nn.Module,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    schedule: Callable[[Optimizer], LRScheduler] | None,
    warmup_steps: int,
    total_steps: float,
    groups: list[dict[str, Any]] | None = None,
    layer_decay: float = 1.0,
) -> tuple[list[Optimizer], list[dict[str, Any]]]:
    """Return what ``configure_optimizers`` returns; ReduceLROnPlateau monitors val/loss after each epoch.

    Args:
        net: the network to train.
        optimizer: called with the parameter groups.
        schedule: called with the optimizer.
        warmup_steps: steps of linear warm-up.
        total_steps: length of the run.
        groups: the ``rules`` of ``param_groups``.
        layer_decay: see ``param_groups``.
    """
    built = optimizer(param_groups(net, groups, layer_decay))
    check_settings(built, groups)
    for group in built.param_groups:
        if "lr_scale" in group:
            group["lr"] = group["lr"] * group.pop("lr_scale")  # not in place: groups may share one tensor
    return [built], [
        {
            "scheduler": scheduler,
            "interval": "epoch" if isinstance(scheduler, ReduceLROnPlateau) else "step",
            "monitor": "val/loss",
        }
        for scheduler in with_warmup(built, schedule, warmup_steps, total_steps)
    ]


def param_groups(
    net: nn.Module, rules: list[dict[str, Any]] | None = None, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Split trainable parameters into groups; biases and norms get no weight decay.

    Args:
        net: the network to train.
        rules: dictionaries with ``match``, a regular expression for full parameter names, and optimizer settings for
            the matching parameters. The first matching rule applies. Biases and norms still get no weight decay unless
            the rule sets ``weight_decay``.
        layer_decay: ratio of each layer's learning rate to the next layer's, in (0, 1]; arXiv:1801.06146, section 3.2,
            and arXiv:2106.08254. A group stores its factor as ``lr_scale``, unless that is 1 or the rule sets ``lr``.

    Raises:
        UserError: if a rule is malformed or applies to no parameter.
    """
    require(0 < layer_decay <= 1, f"layer_decay must be in (0, 1], got {layer_decay}")
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    rules = rules or []
    rule_numbers = assign_rules([name for name, _ in named], rules)
    settings = [{key: value for key, value in rule.items() if key != "match"} for rule in rules]
    exempt = no_decay_params(net)
    scales = layer_scales(net, layer_decay, exempt)
    members: dict[tuple[int, float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, p in named:
        number = rule_numbers[name]
        scale = 1.0 if number >= 0 and "lr" in settings[number] else scales.get(p, 1.0)
        members[number, scale, p in exempt].append(p)
    return [
        {"params": members[number, scale, no_decay]}
        | ({"weight_decay": 0.0} if no_decay else {})
        | ({"lr_scale": scale} if scale != 1 else {})
        | (settings[number] if number >= 0 else {})
        for number, scale, no_decay in sorted(members, key=lambda member: (member[0], -member[1], member[2]))
    ]


def assign_rules(names: list[str], rules: list[dict[str, Any]]) -> dict[str, int]:
    """Map each parameter name to the number of the first matching rule, or -1."""
    assigned = dict.fromkeys(names, -1)
    for number, rule in enumerate(rules):
        pattern = compile_match(rule)
        matched = [name for name in names if pattern.fullmatch(name)]
        if not matched:
            closest = ", ".join(difflib.get_close_matches(pattern.pattern, names, n=3, cutoff=0))
            raise UserError(f"groups: {pattern.pattern!r} matches no trainable parameter; closest: {closest}")
        unassigned = [name for name in matched if assigned[name] < 0]
        if not unassigned:
            raise UserError(
                f"groups: rule {pattern.pattern!r} is never used, because earlier rules match all its parameters"
            )
        assigned |= dict.fromkeys(unassigned, number)
    return assigned


def compile_match(rule: dict[str, Any]) -> re.Pattern[str]:
    if not isinstance(rule.get("match"), str):
        raise UserError(f"groups: each rule needs match, a regular expression for parameter names, got {rule}")
    try:
        return re.compile(rule["match"])
    except re.error as error:
        raise UserError(f"groups: {rule['match']!r} is not a regular expression: {error}") from None


def no_decay_params(net: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that should not decay: biases, norms and all others with at most one axis."""

    def no_decay(module: nn.Module, name: str, p: nn.Parameter) -> bool:
        if isinstance(p, nn.UninitializedParameter):  # a lazy parameter has no shape yet
            return name == "bias" or isinstance(module, _NormBase)
        return p.ndim <= 1

    return {p for m in net.modules() for name, p in m.named_parameters(recurse=False) if no_decay(m, name, p)}


def layer_scales(net: nn.Module, layer_decay: float, no_decay: set[nn.Parameter]) -> dict[nn.Parameter, float]:
    """Return each parameter's learning-rate factor, ``layer_decay`` to the power of the number of later layers."""
    if layer_decay == 1:
        return {}
    from src.optim.layers import layer_ids

    ids = layer_ids(net, no_decay)
    last = max(ids.values(), default=0)
    return {p: layer_decay ** (last - layer) for p, layer in ids.items()}


def check_settings(optimizer: Optimizer, rules: list[dict[str, Any]] | None) -> None:
    """Reject settings of rules that the optimizer lacks or would reject for all parameters; torch checks no group.

    Raises:
        UserError: with the closest setting that the optimizer has.
    """
    kind, defaults = type(optimizer), optimizer.defaults
    for rule in rules or []:
        settings = {key: value for key, value in rule.items() if key != "match"}
        for key, value in settings.items():
            if not isinstance(key, str):
                raise UserError(f"groups: names of settings must be strings, got {key}")
            if key not in defaults:
                near = difflib.get_close_matches(key, defaults, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(defaults)}"
                raise UserError(f"groups: {kind.__name__} has no setting {key}; {hint}")
            if not same_kind(defaults[key], value):
                raise UserError(f"groups: {key} must be {describe_kind(defaults[key])}, got {value!r}")
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
    numeric = isinstance(value, int | float) and isinstance(value, bool) == isinstance(default, bool)
    return not isinstance(default, int | float) or numeric


def describe_kind(default: Any) -> str:
    if isinstance(default, tuple):
        return f"{len(default)} numbers"
    return "true or false" if isinstance(default, bool) else "a number"
