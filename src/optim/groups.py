"""Parameter groups: which parameter is trained with which settings."""

import difflib
import inspect
import re
from collections import defaultdict
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from src import UserError
from src.optim.layers import layer_numbers, vectors


def param_groups(
    net: nn.Module, rules: list[dict[str, Any]] | None = None, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Split parameters so that weight decay reaches matrices and filters but not biases and norms.

    Args:
        net: whose parameters are split; frozen ones are left out.
        rules: dictionaries of ``match``, a regular expression for the whole name of a parameter, and of settings that
            the optimizer is to use for what it matches, biases and norms being spared weight decay unless it is one of
            them. The first rule that matches a parameter decides.
        layer_decay: learning rate of a layer as a share of the next one's, in (0, 1]. A group has its product over
            the layers after it as ``lr_scale``, where that is not 1 and no rule sets ``lr``; arXiv:1801.06146, section
            3.2, and arXiv:2106.08254.

    Raises:
        UserError: for a rule that is malformed or decides about no parameter.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay must be in (0, 1], got {layer_decay}")
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    rules = rules or []
    deciding = decide([name for name, _ in named], rules)
    settings = [{key: value for key, value in rule.items() if key != "match"} for rule in rules]
    spared, layer = vectors(net), layer_numbers(net)
    last = max(layer.values(), default=0)
    members: dict[tuple[int, float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, p in named:
        rule = deciding[name]
        scale = 1.0 if rule >= 0 and "lr" in settings[rule] else layer_decay ** (last - layer[p])
        members[rule, scale, p in spared].append(p)
    return [
        {"params": members[rule, scale, flat]}
        | ({"weight_decay": 0.0} if flat else {})
        | ({"lr_scale": scale} if scale != 1 else {})
        | (settings[rule] if rule >= 0 else {})
        for rule, scale, flat in sorted(members, key=lambda member: (member[0], -member[1], member[2]))
    ]


def decide(names: list[str], rules: list[dict[str, Any]]) -> dict[str, int]:
    """Return the number of the rule that decides about each name, -1 where none does."""
    deciding = dict.fromkeys(names, -1)
    for number, rule in enumerate(rules):
        pattern = compiled(rule)
        matched = [name for name in names if pattern.fullmatch(name)]
        if not matched:
            near = difflib.get_close_matches(pattern.pattern, names, n=3, cutoff=0)
            raise UserError(f"groups: {pattern.pattern!r} matches no trained parameter; nearest are {', '.join(near)}")
        left = [name for name in matched if deciding[name] < 0]
        if not left:
            raise UserError(f"groups: {pattern.pattern!r} comes too late: earlier rules match all that it matches")
        deciding |= dict.fromkeys(left, number)
    return deciding


def compiled(rule: dict[str, Any]) -> re.Pattern[str]:
    if not isinstance(rule.get("match"), str):
        raise UserError(f"groups: each rule needs match, a regular expression for names of parameters, got {rule}")
    try:
        return re.compile(rule["match"])
    except re.error as error:
        raise UserError(f"groups: {rule['match']!r} is not a regular expression: {error}") from None


def check_settings(optimizer: Optimizer, rules: list[dict[str, Any]] | None) -> None:
    """Refuse settings that an optimizer lacks or would refuse for all parameters: in a group it takes anything.

    Raises:
        UserError: with the nearest setting that there is.
    """
    kind, known = type(optimizer), optimizer.defaults
    for rule in rules or []:
        settings = {key: value for key, value in rule.items() if key != "match"}
        for key, value in settings.items():
            if not isinstance(key, str):
                raise UserError(f"groups: settings have names, got {key}")
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
                raise UserError(f"groups: {kind.__name__} has no setting {key}, {hint}")
            if not alike(known[key], value):
                raise UserError(f"groups: {key} must be {kind_of(known[key])}, got {value!r}")
        accepted = (known | settings).keys() & inspect.signature(kind).parameters
        try:
            with suppress(TypeError):  # not all optimizers take their settings under the names that they store
                kind([nn.Parameter(torch.zeros(1, 1))], **{key: (known | settings)[key] for key in accepted})
        except ValueError as error:
            raise UserError(f"groups: {rule['match']!r}: {error}") from None


def alike(known: Any, value: Any) -> bool:
    """Tell whether a value can take the place of a truth value, a number or several numbers; of others, always."""
    if isinstance(known, tuple):
        return isinstance(value, tuple | list) and len(value) == len(known) and all(map(alike, known, value))
    numeric = isinstance(value, int | float) and isinstance(value, bool) == isinstance(known, bool)
    return not isinstance(known, int | float) or numeric


def kind_of(known: Any) -> str:
    if isinstance(known, tuple):
        return f"{len(known)} numbers"
    return "true or false" if isinstance(known, bool) else "a number"
