"""Compare what three steps of training log and compute with a loop in double precision, and print a table.

python -m tools.exactness [--processes 1 2 3]

Each run trains on 177 digits and validates on 37, so that processes, batches and micro-batches are of unequal sizes.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from src import cli
from src.data import Digits
from src.data.loading.loader import BatchSampler
from src.runs.summary import echo

ROOT = Path(__file__).parents[1]
STEPS, TRAIN, LR, GAMMA, SMOOTHING, IGNORED = 3, 177, 0.1, 2.0, 0.1, 3
WEIGHTS = [0.1, 1.0, 5.0, 2.0, 0.5, 1.0, 3.0, 0.2, 1.0, 2.0]
CROSS_ENTROPY = "--model.loss=torch.nn.CrossEntropyLoss"
LOSSES: dict[str, list[str]] = {
    "plain": [],
    "class weights": [f"--model.class_weights={WEIGHTS}"],
    "focal": ["--model.loss=src.losses.FocalLoss", f"--model.class_weights={WEIGHTS}"],
    "smoothing": [CROSS_ENTROPY, f"--model.loss.label_smoothing={SMOOTHING}", f"--model.class_weights={WEIGHTS}"],
    "ignore_index": [CROSS_ENTROPY, f"--model.loss.ignore_index={IGNORED}"],
    "sum": [CROSS_ENTROPY, "--model.loss.reduction=sum", f"--model.optimizer.lr={LR / 64}"],
}


class Few(Digits):
    """The first 177 digits to train on, the next 37 to validate on."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, targets = super().load(train)
        return images[:TRAIN], targets[:TRAIN]

    def load_val(self) -> tuple[Tensor, Tensor]:
        images, targets = super().load(train=True)
        return images[TRAIN : TRAIN + 37], targets[TRAIN : TRAIN + 37]


class Record(Callback):
    """Keep the net before training and the gradients of the last step."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        if stage == "fit":
            self.net = copy.deepcopy(pl_module.net)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: ARG002
        self.grads = [p.grad.clone() for p in pl_module.net.parameters()]

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.logged = dict(trainer.callback_metrics)


def terms(loss: str, logits: Tensor, targets: Tensor) -> tuple[Tensor, Any]:
    """Return numerator and denominator of a mean loss, written out."""
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    weight, own = torch.tensor(WEIGHTS, dtype=torch.float64), log_p[torch.arange(len(targets)), targets]
    if loss == "class weights":
        return -(weight[targets] * own).sum(), weight[targets].sum()
    if loss == "focal":
        return -(weight[targets] * (1 - own.exp()) ** GAMMA * own).sum(), weight[targets].sum()
    if loss == "smoothing":
        smooth = (weight * log_p).sum(1) / 10
        return -((1 - SMOOTHING) * weight[targets] * own + SMOOTHING * smooth).sum(), weight[targets].sum()
    kept = targets != (IGNORED if loss == "ignore_index" else -1)
    return -own[kept].sum(), kept.sum()


def expected(loss: str, net: nn.Module, data: Any, accumulate: int) -> tuple[dict[str, Any], list[Tensor]]:
    """Train in double precision on whole batches, and return what should be logged, and the last gradients."""
    net, train, val = net.double(), data.splits["train"], data.splits["val"]
    size = -(-TRAIN // (STEPS * accumulate - accumulate + 1))  # the last step has one batch
    sums = torch.zeros(3, dtype=torch.float64)
    grads: list[Tensor] = []
    parts = list(BatchSampler(TRAIN, size, shuffle=True, seed=0))
    for step in range(STEPS):
        _, images, targets = train[torch.cat(parts[step * accumulate : (step + 1) * accumulate])]
        logits = net(data.normalize(images).double())
        total, weight = terms(loss, logits, targets)
        grads = list(torch.autograd.grad(total if loss == "sum" else total / weight, list(net.parameters())))
        with torch.no_grad():
            for p, grad in zip(net.parameters(), grads, strict=True):
                p.sub_((LR / 64 if loss == "sum" else LR) * grad)
        sums += torch.stack([total.detach(), torch.as_tensor(weight), (logits.argmax(1) == targets).sum()])
    step_loss = total if loss == "sum" else total / weight  # of the last step, which is one batch
    _, images, targets = val[torch.arange(len(val))]
    with torch.no_grad():
        logits = net(data.normalize(images).double())
        total, weight = terms(loss, logits, targets)
    logged = {"train/loss_step": step_loss.detach(), "train/loss": sums[0] / sums[1], "train/accuracy": sums[2] / TRAIN}
    logged |= {"val/loss": total / weight, "val/accuracy": (logits.argmax(1) == targets).double().mean()}
    return logged, grads


def compare(loss: str, ranks: int, micro_batches: int, accumulate: int) -> dict[str, float]:
    """Train, and return the largest differences in loss, accuracy and gradients, each relative to max(1, value)."""
    size = -(TRAIN // -(STEPS * accumulate - accumulate + 1) // ranks)  # the last step has one batch
    args = ["fit", f"--config={ROOT}/configs/digits.yaml", "--data=tools.exactness.Few", f"--data.batch_size={size}"]
    args += ["--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]", "--model.net.hidden_sizes=[16]"]
    args += ["--model.optimizer=torch.optim.SGD", f"--model.optimizer.lr={LR}", "--model.optimizer.weight_decay=0"]
    args += [
        "--model.schedule=null",
        "--model.warmup_steps=0",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--test=false",
    ]
    args += ["--trainer.callbacks+=tools.exactness.Record", f"--trainer.accumulate_grad_batches={accumulate}"]
    args += [f"--trainer.devices={ranks}", "--data.augment=null", *LOSSES[loss]]
    args += ["--trainer.strategy=ddp"] if ranks > 1 else []
    if micro_batches > 1:
        args += ["--trainer.callbacks+=src.callbacks.MicroBatches", f"--trainer.callbacks.count={micro_batches}"]
    x = cli.main(args)
    (record,) = [each for each in x.trainer.callbacks if type(each).__name__ == "Record"]
    logged, grads = expected(loss, record.net, x.data, accumulate)
    found = {name: abs(float(record.logged[name] - each)) / max(1.0, float(each)) for name, each in logged.items()}
    scale = max(1.0, *(float(grad.abs().max()) for grad in grads))
    worst = max(float((a - b).abs().max()) for a, b in zip(record.grads, grads, strict=True)) / scale
    return {
        "loss": max(value for name, value in found.items() if "loss" in name),
        "accuracy": max(found["train/accuracy"], found["val/accuracy"]),
        "gradients": worst,
    }


def work(ranks: int, losses: list[str]) -> None:
    """Print the differences of each cell as a line of JSON; one of ``ranks`` processes."""
    for loss in losses:
        for micro_batches in (1, 4):
            for accumulate in (1, 2):
                row = compare(loss, ranks, micro_batches, accumulate)
                if os.environ.get("RANK", "0") == "0":
                    echo("CELL " + json.dumps([loss, ranks, micro_batches, accumulate, row]))


def cells(ranks: int, losses: list[str]) -> Iterator[Any]:
    """Yield [loss, processes, micro-batches, accumulated batches, differences] of each cell."""
    run = [sys.executable, "-m"]
    if ranks > 1:
        run += ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        command = [*run, "tools.exactness", "--work", str(ranks), *losses]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    yield from (json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("CELL "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--work", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(int(args.work[0]), args.work[1:])
        return
    echo("| loss | processes | micro-batches | accumulated | loss | accuracy | gradients |")
    echo("|---|--:|--:|--:|--:|--:|--:|")
    for ranks in args.processes:
        for loss, n, micro_batches, accumulate, row in cells(ranks, [*LOSSES]):
            values = " | ".join(f"{value:.0e}" for value in row.values())
            echo(f"| {loss} | {n} | {micro_batches} | {accumulate} | {values} |")


if __name__ == "__main__":
    main()
