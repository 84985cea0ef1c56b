"""Checks of the forward pass of the nets that a training step calls; each finds one kind of bug."""

import re
from collections import Counter
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from src.analysis.model.spies import Random
from src.analysis.model.subject import Call, Check, Subject, pick, samples, tensors

BY_DESIGN = re.compile("Drop|Norm|Stochastic|RReLU")  # names of layers that differ between train and eval


def deterministic(s: Subject, calls: list[Call]) -> Check:
    """Compare two passes in eval mode."""
    s.module.eval()
    for call in calls:
        with Random() as drawn:
            far = gap(s.outputs(call), s.outputs(call))
        if far:
            names = ", ".join(sorted(drawn.names)) or "unknown"
            by_design = drawn.names and not re.search("drop|bernoulli|rrelu", names)
            figure = f"two passes of {call.name} differ by {far:.1%}, because of {names}"
            return Check(None if by_design else False, figure, "pass training=self.training to it")
    return Check(True, "two passes are equal") if calls else Check(None, "training_step calls no net")


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    """Return the largest difference relative to the largest number, 0 if it is rounding."""
    if [each.shape for each in a] != [each.shape for each in b]:
        return 1.0
    found = [float((x - y).abs().max() / x.abs().max().clamp(1e-12)) for x, y in zip(a, b, strict=True) if x.numel()]
    far = max((each for each in found if isfinite(each)), default=0.0)
    return far if far > 1e-3 else 0.0


def independent(s: Subject, calls: list[Call]) -> Check:
    """Replace half of the samples, drawn at random, by others in eval mode: only their own outputs may change."""
    s.module.eval()
    figure = "no samples to change"
    if any(getattr(each, "batch_first", True) is False for each in s.module.modules()):
        return Check(None, "needs a batch of samples in the first dimension")
    for call in calls:
        given, n = (call.args, call.kwargs), samples((call.args, call.kwargs))
        order, index = torch.randperm(n, generator=torch.Generator().manual_seed(0)), torch.arange(n)
        changed, kept = order[: n // 2], order[n // 2 :]
        index[changed] = kept[: len(changed)]
        inputs = [each for each in tensors(given) if each.ndim and len(each) == n]
        if all(torch.equal(each, each[index.to(each.device)]) for each in inputs):
            continue
        pairs = []
        with s.own_draws():  # the same random numbers, if there are any
            torch.manual_seed(0)
            before = s.outputs(call, given)
            torch.manual_seed(0)
            after = s.outputs(call, pick(given, n, index))
        pairs = [(x, y) for x, y in zip(before, after, strict=False) if x.shape == y.shape and len(x) == n]
        if not pairs:
            continue
        figure = f"none of {len(kept)} outputs depends on other samples"
        change = torch.stack([(x - y).nan_to_num().abs().flatten(1).amax(1) for x, y in pairs]).amax(0)
        scale = max(float(x.nan_to_num().abs().max()) for x, _ in pairs)
        moved = (change > max(1e-3 * float(change.max()), 1e-5 * scale))[kept.to(change.device)]
        if moved.any():
            figure = f"{len(changed)} other samples change {int(moved.sum())} of {len(kept)} outputs of {call.name}"
            return Check(False, figure, "look for a view, reshape or permute that mixes the batch, or a mean over it")
    return Check(figure.startswith("none") or None, figure)


def train_and_eval(s: Subject, calls: list[Call]) -> Check:
    """Compare both modes with dropout, normalization and the like in eval mode: nothing else may differ."""
    for name, each in s.module.named_modules():
        if getattr(each, "running_mean", None) is not None and getattr(each, "momentum", 1) == 0 and each.training:
            return Check(False, f"{name} has momentum 0, so its statistics for eval never change", "set it to 0.1")
    layers = [each for each in s.module.modules() if differs_by_design(each)]
    differ = False
    with s.unchanged():
        for call in calls:
            s.module.eval()
            expected = s.outputs(call)
            with s.unchanged():  # statistics of batch norm
                s.module.train()
                trained = s.outputs(call)
            if len(trained) != len(expected):
                return Check(None, f"{call.name} returns {len(trained)} tensors in train mode, {len(expected)} in eval")
            differ = differ or bool(gap(expected, trained))
            s.module.train()
            for each in layers:
                each.eval()
            got = s.outputs(call)
            if gap(expected, got) and not gap(got, s.outputs(call)):  # else it is random, like dropout in a function
                others = [(name, each) for name, each in call.owner.named_modules() if each not in layers]
                found = [name for name, each in others if differs_alone(s, call, each, expected)]
                figure = f"{found[-1] if found and found[-1] else call.name} differs by {gap(expected, got):.1%}"
                return Check(False, figure, "only dropout, normalization and the like should read self.training")
    counts = Counter(type(each).__name__ for each in layers)
    names = ", ".join(f"{number} {name}" for name, number in counts.items())
    return Check(True, f"differ by {names or 'random numbers'} alone" if differ else "are equal")


def differs_by_design(module: nn.Module) -> bool:
    known = isinstance(module, _NormBase | _DropoutNd)  # with children too, such as an activation in timm
    return known or bool(BY_DESIGN.search(type(module).__name__) and not [*module.children()])


def differs_alone(s: Subject, call: Call, module: nn.Module, expected: list[Tensor]) -> bool:
    s.module.eval()
    module.training = True
    return bool(gap(expected, s.outputs(call)))
