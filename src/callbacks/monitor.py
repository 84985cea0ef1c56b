"""Monitor: activations, gradients and updates of the layers during training, with a warning if a layer is unhealthy."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from src import require
from src.analysis.training.layers import IMAGES, History, Measured, find_layers, memory_mib, output_statistics
from src.callbacks.averaging import refuse_divided_weights

NAMES = {
    "dead": "dead units",
    "saturated": "saturated",
    "vanishing": "vanishing gradient",
    "exploding": "exploding gradient",
    "slow": "hardly changes",
    "fast": "changes too fast",
}


class Monitor(Callback):
    """Log statistics of each layer at every n-th step, and warn in one line, once, if a layer is unhealthy.

    Logged are, by layer: mean and std of its outputs, the share of zeros, and of values at a limit of tanh, sigmoid and
    the like, for the first 16 images of the batch; the norms of its gradient (before clipping) and of its weights; and
    how much the step changed them, as a fraction of this norm. Also the memory at the end of each epoch. Warnings are
    kept in monitor.json. The trained weights are the same bit for bit; a measured step takes about twice the time, and
    a copy of the weights. Only the first process measures. Outputs inside of a compiled model cannot be seen.

    Args:
        every_n_steps: steps of the optimizer from one measurement to the next, at least 1.
        layers: regular expression for the full names of modules, such as ``net\\.features.*``; by default all layers
            with weights, and activations.
        histograms: draw histograms of outputs, gradients and weights in TensorBoard at every n-th measurement; 0: off.
    """

    def __init__(self, every_n_steps: int = 200, layers: str | None = None, histograms: int = 10) -> None:
        require(every_n_steps >= 1, f"every_n_steps must be at least 1, got {every_n_steps}")
        require(histograms >= 0, f"histograms must be at least 0, got {histograms}")
        self.every_n_steps, self.pattern, self.every_histogram = every_n_steps, layers, histograms
        self.due, self.step, self.measured = 0, -1, 0  # next step to measure, the one being measured (-1: none), count
        self.wait = 0  # batches before which the next step to measure cannot come
        self.history, self.found = History(), list[dict[str, Any]]()
        self.handles: list[Any] = []
        self.clear()

    def clear(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.remove_hooks()
        self.outputs: dict[str, tuple[int, list[Tensor]]] = {}  # number of values, and their statistics
        self.samples: dict[str, Tensor] = {}  # values for histograms
        self.tensors: list[tuple[str, nn.Parameter, Tensor]] = []  # layer, parameter, its negative before the step
        self.norms: list[tuple[Tensor, Tensor]] = []  # of the gradient and of the values of these parameters
        self.step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            self.layers = find_layers(pl_module, self.pattern)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        refuse_divided_weights(trainer, "Monitor")
        self.due = min(self.due, trainer.global_step + self.every_n_steps) if trainer.is_global_zero else sys.maxsize
        self.wait, layers = 0, getattr(self, "layers", {})
        self.params = [(name, p) for name, each in layers.items() for p in each.parameters()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        self.wait -= 1
        if self.wait > 0 or self.step >= 0:
            return
        # Lightning takes at most one step per batch; reading the step each time costs 1 % of a small net's step
        self.wait = self.due - trainer.global_step if pl_module.automatic_optimization else 0
        if self.wait <= 0:
            self.step = trainer.global_step
            self.draws = self.every_histogram > 0 and self.measured % self.every_histogram == 0
            self.handles = [each.register_forward_hook(self.hook(name)) for name, each in self.layers.items()]

    def hook(self, name: str) -> Any:
        @torch.no_grad()
        def keep(module: nn.Module, _: Any, output: Any) -> None:
            """Measure at once: an activation that works in place overwrites this output later."""
            if torch.compiler.is_compiling() or name in self.outputs:
                return
            x = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(x, Tensor) and x.is_floating_point() and x.numel() and x.ndim:
                x = x.detach()[:IMAGES].float()
                x = x[:, None] if x.ndim == 1 else x
                self.outputs[name] = x.numel(), output_statistics(module, x)
                self.sample(f"activation/{name}", x)

        return keep

    def sample(self, name: str, x: Tensor) -> None:
        if self.draws:
            self.samples[name] = x.flatten()[:: 1 + x.numel() // 2000].clone()

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        if self.step < 0:
            return
        known = {id(p) for _, p, _ in self.tensors}  # of another step within this batch
        mine = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None} - known
        pairs = [(name, p) for name, p in self.params if id(p) in mine and not p.grad.is_sparse]  # type: ignore[union-attr]
        if not pairs:
            return
        grads: Any = [p.grad for _, p in pairs]
        values: list[Tensor] = [p.detach() for _, p in pairs]
        self.norms += zip(torch._foreach_norm(grads), torch._foreach_norm(values), strict=True)
        copies = torch._foreach_neg(values)
        self.tensors += [(*pair, copy) for pair, copy in zip(pairs, copies, strict=True)]
        for name, p in pairs if self.draws else ():
            if p.ndim > 1:
                self.sample(f"weight/{name}", p)
                self.sample(f"gradient/{name}", p.grad)  # type: ignore[arg-type]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        if self.step < 0:
            return
        self.remove_hooks()
        if trainer.global_step > self.step:  # else gradients are still being accumulated
            self.due = (self.step // self.every_n_steps + 1) * self.every_n_steps
            self.report(trainer, self.collect())
            self.measured += 1
            self.clear()

    def collect(self) -> dict[str, Measured]:
        """Move all numbers to the CPU at once, and sort them by layer."""
        copies: list[Tensor] = [before for *_, before in self.tensors]
        if copies:
            torch._foreach_add_(copies, [p.detach() for _, p, _ in self.tensors])
        changes = torch._foreach_norm(copies) if copies else ()
        norms = [one for three in zip(*zip(*self.norms, strict=True), changes, strict=True) for one in three]
        parts = [part for _, own in self.outputs.values() for part in own] + ([torch.stack(norms)] if norms else [])
        parts = parts or [torch.zeros(0)]
        numbers = iter(torch.cat([part.float() for part in parts]).cpu().split([*map(len, parts)]))
        found = {name: Measured() for name in self.layers}
        for name, (values, own) in self.outputs.items():
            found[name].add_outputs(values, *(next(numbers) for _ in own))
        for (name, p, _), three in zip(self.tensors, next(numbers).view(-1, 3).tolist() if norms else (), strict=True):
            found[name].add_weights(p, *three)
        return found

    def report(self, trainer: Trainer, layers: dict[str, Measured]) -> None:
        """Log the numbers, draw the histograms and print what is new of what the rules found."""
        if not self.outputs and self.measured == 0:
            rank_zero_warn("Monitor saw no output of a layer, as in a compiled model: it watches gradients and weights")
        values = {f"{kind}/{name}": value for name, each in layers.items() for kind, value in each.values().items()}
        write(trainer, values, self.step)
        for logger in trainer.loggers:
            if draw := getattr(getattr(logger, "experiment", None), "add_histogram", None) if self.samples else None:
                for name, x in self.samples.items():
                    if len(x := x[x.isfinite()].float().cpu()):
                        draw(name, x, self.step, bins=64)
        known = {(each["kind"], each["layer"]) for each in self.found}
        faults = self.history.faults(layers, [*self.outputs, ""][-1] if self.outputs else "")
        new = {key: text for key, text in faults.items() if key not in known}
        where = {"epoch": trainer.current_epoch + 1, "step": self.step}  # as the lines of epochs count
        self.found += [{**where, "layer": layer, "kind": kind, "text": text} for (kind, layer), text in new.items()]
        for kind in dict.fromkeys(kind for kind, _ in new):
            first, *others = [layer for each, layer in new if each == kind]
            also = f"; also {', '.join(others[:2])}" if others else ""
            also += f" and {len(others) - 2} more" if len(others) > 2 else ""
            text = f"{first}: {NAMES[kind]}: {new[kind, first]}{also}"
            rank_zero_warn(f"epoch {where['epoch']}, step {self.step}: {text}")
        if new and trainer.loggers and (folder := trainer.loggers[0].log_dir):
            Path(folder, "monitor.json").write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        used = memory_mib(pl_module.device) if trainer.is_global_zero else None
        if used is not None:  # by the loggers, because the module's log takes as long as a step of a small net
            write(trainer, {"memory_mib": used}, max(0, trainer.global_step - 1))

    def remove_hooks(self) -> None:
        for each in self.handles:
            each.remove()
        self.handles = []

    teardown = on_exception = clear

    def state_dict(self) -> dict[str, Any]:
        return {"due": self.due, "measured": self.measured, "found": [*self.found], **vars(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self.due, self.measured, self.found = state.pop("due"), state.pop("measured"), state.pop("found")
        self.history = History(**state)


def write(trainer: Trainer, values: dict[str, float], step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics({"epoch": trainer.current_epoch, **values}, step)
