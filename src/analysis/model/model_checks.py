"""Checks of the loss, the gradients and the first steps of a module; each finds one kind of bug."""

from math import isfinite, log
from statistics import fmean
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from src.analysis.model.spies import Spy
from src.analysis.model.subject import Call, Check, Subject, replaced_output

MAX_START = 2.0  # of the loss that outputs of 0 have
DEAD_SHARE = 0.5  # of the units of a layer
FALL = 0.7  # of its first loss, to which a batch must be fitted


def only(calls: list[Call]) -> tuple[Call | None, str]:
    """Return the only call if its output is one tensor, else why there is none."""
    if len(calls) == 1 and isinstance(calls[0].output, Tensor):
        return calls[0], ""
    names = ", ".join(dict.fromkeys(call.name for call in calls))
    return None, f"the loss is of several outputs ({names})" if calls else "training_step calls no net"


def loss_at_start(s: Subject, calls: list[Call], loss: Tensor | None, comparable: bool) -> Check:
    """Compare the first loss with that of outputs of 0, which is ln K for cross-entropy of K classes."""
    if loss is None:
        return Check(None, "training_step returns no loss")
    start, (call, why) = float(loss.detach()), only(calls)
    if not isfinite(start):
        return Check(False, f"{start}", "look for a division by 0, a logarithm of 0, or NaN in the data")
    if call is None:
        return Check(None, f"{start:.4g}, not compared: {why}")
    with s.unchanged(), replaced_output(call.owner, torch.zeros_like(call.output, requires_grad=True)):
        again = s.loss(s.batch)
    zero = float("nan") if again is None else float(again.detach())
    classes = call.output.shape[1] if call.output.ndim > 1 else 1
    reference = f"ln {classes} = {zero:.4g}" if abs(zero - log(classes)) < 1e-3 else f"outputs of 0 have {zero:.4g}"
    if abs(zero + log(classes)) < 1e-3 and classes > 1:
        return Check(False, f"{start:.4g}; outputs of 0 have -ln {classes}", "look for a loss with the wrong sign")
    if not comparable or not isfinite(zero):
        return Check(None, f"{start:.4g}; {reference}")
    advice = "initial outputs are too large: scale the last layer or its inputs down"
    return Check(start <= MAX_START * abs(zero) + 0.1, f"{start:.4g}; {reference}", advice)


ADVICE = {
    "expects logits": "remove the softmax or sigmoid of the net",
    "log-probabilities": "call log_softmax before it",
    "": "each output is compared with each target: squeeze or unsqueeze one of them",
}


def kind_of_outputs(spy: Spy) -> Check:
    """Tell whether the losses of torch get what they expect."""
    if not spy.losses:
        return Check(None, "no loss of torch that can tell")
    name, problem = next((each for each in spy.losses if each[1]), spy.losses[0])
    advice = next(text for word, text in ADVICE.items() if word in problem)
    return Check(not problem, f"{name} gets {problem or 'what it expects'}", advice)


def dead_units(spy: Spy) -> Check:
    """Tell which layer has most units that are 0 for a whole batch."""
    if not spy.dead:
        return Check(None, "no ReLU or similar activation")
    name, share, units = max(spy.dead, key=lambda each: each[1])
    figure = f"{share:.0%} of {units} units in {name or 'training_step'} are 0 for a whole batch"
    advice = "look at the bias, scale and learning rate of the layer before it"
    return Check(share < DEAD_SHARE, figure if share else f"none in {len(spy.dead)} layers", advice)


PROBLEMS = {
    "none": ("no gradient reaches {}", "is it used in forward, or detached?"),
    "NaN": ("NaN or infinite gradients of {}", "look for a division by 0, sqrt(0) or log(0) after it"),
    "zero": ("gradients of exactly 0 for {}", "is what follows saturated, or multiplied by 0?"),
}


def gradients(s: Subject, dead: bool) -> Check:
    """Take up to five steps: behind a layer of zeros, gradients arrive only once that has moved."""
    optimized = {id(p) for each in s.optimizers for group in each.param_groups for p in group["params"]}
    names = {p: name for name, p in s.module.named_parameters() if p.requires_grad}
    if lost := [name for p, name in names.items() if id(p) not in optimized]:
        advice = "pass all to it, or freeze them: requires_grad_(False)"
        return Check(False, f"no optimizer has {first_of(lost)}", advice)
    seen: dict[str, set[str]] = {name: set() for name in names.values()}
    handles = [p.register_hook(lambda grad, name=name: seen[name].add(kind(grad))) for p, name in names.items()]
    with s.unchanged():
        for _ in range(5):
            s.step(s.batch)
            if all("good" in kinds for kinds in seen.values()):
                break
    for handle in handles:
        handle.remove()
    for problem, (text, advice) in PROBLEMS.items():
        found = [name for name, kinds in seen.items() if kinds == ({problem} - {"none"})]
        if found and not (problem == "zero" and dead):  # which is why it is 0
            return Check(False, text.format(first_of(found)), advice)
    frozen = len([*s.module.parameters()]) - len(names)
    return Check(True, f"reach all {len(names)} parameters" + (f"; {frozen} others are frozen" if frozen else ""))


def first_of(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def kind(gradient: Tensor) -> str:
    gradient = gradient.coalesce().values() if gradient.is_sparse else gradient
    if not gradient.isfinite().all():
        return "NaN"
    return "good" if gradient.count_nonzero() else "zero"


def loss_gradient(s: Subject, calls: list[Call]) -> Check:
    """Compare the gradient of the loss with respect to the outputs with differences, in double precision.

    Along random directions, as in the fast mode of torch.autograd.gradcheck, which takes minutes to report a failure.
    """
    call, why = only(calls)
    if call is None:
        return Check(None, why)
    z = call.output.detach().double().requires_grad_()

    def loss(outputs: Tensor) -> Any:
        torch.manual_seed(0)
        with replaced_output(call.owner, outputs):
            return s.loss(s.batch)

    with s.unchanged(), s.double_losses():
        value = loss(z)
        if value is None or value.dtype != torch.double or not value.requires_grad:
            return Check(None, "the loss is not computed in the precision of the outputs")
        if not isfinite(value.detach()):
            return Check(None, "the loss is not finite")
        (gradient,) = torch.autograd.grad(value, z)
        step, found = 1e-6 * max(1.0, float(z.detach().abs().max())), []
        for _ in range(3):
            v = torch.randn_like(z)
            with torch.no_grad():
                numerical = float(loss(z + step * v) - loss(z - step * v)) / (2 * step)
            exact, rounding = float((gradient * v).sum()), 1e-15 * abs(float(value.detach())) / step
            error = max(0.0, abs(exact - numerical) - rounding) / max(abs(exact), abs(numerical), 1e-12)
            found.append((error, exact, numerical))
    error, exact, numerical = sorted(found)[1]  # one may cross a kink, such as that of a hinge loss
    if not error < 1e-4:
        figure = f"its derivative is {exact:.3g}, but differences give {numerical:.3g}"
        return Check(False, figure, "look for detach, item, NumPy or an own backward in the loss")
    return Check(True, f"agrees with numerical ones of {z.numel():,} outputs")


def one_batch(s: Subject, seconds: float = 2.5, most: int = 100, tries: int = 4) -> Check:
    """Fit one batch at the learning rate after warm-up, then at larger ones while the loss falls slowly, or smaller."""
    scale, slow = 1.0, False
    for _ in range(tries):
        losses: list[float] = []
        start = perf_counter()
        with s.unchanged():
            for group in [group for each in s.optimizers for group in each.param_groups]:
                group["lr"] = scale * group.get("max_lr", group.get("initial_lr", group["lr"]))
            while len(losses) < most and perf_counter() - start < seconds:
                loss = s.step(s.batch)
                if loss is None:
                    return Check(None, "training_step returns no loss")
                losses.append(loss)
                if not isfinite(loss) or fmean(losses[-3:]) < losses[0] - 0.5 * abs(losses[0]):
                    break
        first, end = losses[0], fmean(losses[-3:])
        at = f" at {scale:g} x the learning rate" if scale != 1 else ""
        figure = f"loss {first:.4g} to {end:.4g} in {len(losses)} steps{at}"
        if end < first - (1 - FALL) * abs(first):
            return Check(True, figure)
        if slow := perf_counter() - start >= seconds and (end <= first or len(losses) < 20):
            break
        scale *= 10 if end <= first else 0.1
    advice = "change the learning rate, or look for a bug in the loss or the optimizer"
    return Check(None if slow else False, figure + (": too slow here to tell" if slow else ""), advice)
