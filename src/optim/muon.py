"""MuonSGD: Muon and SGD in one optimizer."""

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd as sgd_step

from src import require


class MuonSGD(Optimizer):
    """Muon for matrices and filters, SGD for all other parameters; arXiv:2502.16982.

    One optimizer for the entire net, because ``torch.optim.Muon`` accepts only matrices and Lightning's automatic
    optimization steps only one optimizer. A filter (O, I, H, W) is treated as a matrix (O, I * H * W). SGD trains
    groups with ``muon: false``, recommended for embeddings and the last layer, and complex matrices. The original post
    is https://kellerjordan.github.io/posts/muon/.

    Args:
        params: parameters or parameter groups.
        lr: learning rate of Muon: spectral norm of an update, times sqrt(rows / columns) for tall matrices.
        momentum: momentum of Muon, in [0, 1).
        weight_decay: decoupled weight decay in Muon; L2 penalty added to the gradients in SGD.
        sgd_lr: learning rate of SGD.
        sgd_momentum: momentum of SGD, in [0, 1).
        nesterov: use Nesterov momentum, in Muon and in SGD.
        ns_steps: Newton-Schulz iterations, at least 1; five bring singular values into [0.7, 1.2].
        normalize: scale each matrix to norm sqrt(rows) before Muon's step, as an alternative to weight decay.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        sgd_lr: float = 0.05,
        sgd_momentum: float = 0.9,
        nesterov: bool = True,
        ns_steps: int = 5,
        normalize: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("sgd_lr", sgd_lr), ("weight_decay", weight_decay)):
            require(value >= 0, f"{name} must be at least 0, got {value}")
        for name, value in (("momentum", momentum), ("sgd_momentum", sgd_momentum)):
            require(0 <= value < 1, f"{name} must be in [0, 1), got {value}")
        require(ns_steps >= 1, f"ns_steps must be at least 1, got {ns_steps}")
        shared = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        own = {"ns_steps": ns_steps, "normalize": normalize, "sgd_lr": sgd_lr, "sgd_momentum": sgd_momentum}
        super().__init__(params, shared | own | {"muon": True})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, split in two if it mixes both kinds. Its ``lr`` and ``momentum`` apply to both."""
        given = {key: value for key, value in param_group.items() if key != "params"}
        params = param_group["params"]
        kinds: dict[bool, list[Any]] = {True: [], False: []}
        for param in [params] if isinstance(params, Tensor) else params:
            tensor = param[1] if isinstance(param, tuple) else param  # named_parameters() yields (name, tensor)
            lazy = isinstance(tensor, torch.nn.UninitializedParameter)
            require(not lazy, "MuonSGD needs the shapes of all parameters, got an uninitialized lazy parameter")
            kinds[given.get("muon", True) and tensor.ndim > 1 and not tensor.is_complex()].append(param)
        sgd = {key: given.get(f"sgd_{key}", given.get(key, self.defaults[f"sgd_{key}"])) for key in ("lr", "momentum")}
        for muon, members in kinds.items():
            if members:
                super().add_param_group(given | ({} if muon else sgd) | {"params": members, "muon": muon})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            kinds = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    kinds[p.dtype, p.device].append(p)
            for params in kinds.values():
                (self.step_muon if group["muon"] else self.step_sgd)(params, group)
        return loss

    def step_muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update all matrices of a group; each call covers all of them, because on a GPU each call costs time."""
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        grads = [p.grad for p in params if p.grad is not None]
        momenta = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        directions = torch._foreach_lerp(grads, momenta, group["momentum"]) if group["nesterov"] else momenta
        updates = orthogonalize([direction.flatten(1) for direction in directions], group["ns_steps"])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        if group["normalize"]:
            torch._foreach_div_(params, torch._foreach_add(torch._foreach_norm(params), 1e-7))  # keeps zeros
            torch._foreach_mul_(params, [len(p) ** 0.5 for p in params])
        for p, update in zip(params, updates, strict=True):
            rows, columns = update.shape
            p.add_(update.view(p.shape), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def step_sgd(self, params: list[Tensor], group: dict[str, Any]) -> None:
        momenta = [self.state[p].get("momentum_buffer") for p in params]
        grads = [p.grad for p in params if p.grad is not None]
        settings = {key: group[key] for key in ("lr", "momentum", "weight_decay", "nesterov")}
        sgd_step(params, grads, momenta, dampening=0, maximize=False, **settings)
        for p, momentum in zip(params, momenta, strict=True):
            self.state[p]["momentum_buffer"] = momentum


def orthogonalize(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """Bring all singular values of each matrix (rows, columns) near 1; the results are in bfloat16."""
    wide = [matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    results = list(matrices)
    for members, (rows, columns) in plan_batches(tuple(matrix.shape for matrix in wide)):
        batch = matrices[0].new_zeros(len(members), rows, columns, dtype=torch.bfloat16)
        for padded, i in zip(batch, members, strict=True):
            padded[: wide[i].shape[0], : wide[i].shape[1]] = wide[i]
        for padded, i in zip(newton_schulz(batch, steps), members, strict=True):
            result = padded[: wide[i].shape[0], : wide[i].shape[1]]
            results[i] = result if wide[i] is matrices[i] else result.mT
    return results


@cache
def plan_batches(shapes: tuple[tuple[int, int], ...]) -> list[tuple[list[int], tuple[int, int]]]:
    """Return the members of each batch and the shape to which they are padded with zeros, which change no result.

    Zeros take up at most half of a batch: a GPU needs less time for them than for more batches.
    """
    batches: list[tuple[list[int], tuple[int, int]]] = []
    for i in sorted(range(len(shapes)), key=lambda i: shapes[i], reverse=True):
        for number, (members, shape) in enumerate(batches):
            padded = max(shape[0], shapes[i][0]), max(shape[1], shapes[i][1])
            if prod(padded) * (len(members) + 1) <= 2 * sum(prod(shapes[j]) for j in [*members, i]):
                batches[number] = [*members, i], padded
                break
        else:
            batches.append(([i], shapes[i]))
    return batches


def newton_schulz(x: Tensor, steps: int) -> Tensor:
    """Bring all singular values of (N, rows, columns) near 1 with a quintic Newton-Schulz iteration."""
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x
