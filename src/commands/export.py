"""export: write a version of a model that runs without this project."""

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from src import require
from src.commands.exports.card import trained_with
from src.commands.exports.files import check_installed, exit_at_signals, temporary_folder
from src.commands.exports.gate import Gate, Metrics, check_known, logged
from src.commands.exports.parity import headline_name, measured
from src.commands.exports.prune import pruned
from src.commands.exports.publish import publish
from src.commands.exports.variants import check_scored, checked, export, export_int8
from src.commands.test import start
from src.config.arguments import Options
from src.config.build import Experiment
from src.config.parser import parse
from src.data import DataModule
from src.runs.exports import Models
from src.runs.predictions import let_forward_predict

EXACT = "precision=32-true accelerator=cpu devices=1 num_nodes=1 strategy=auto inference_mode=false fast_dev_run=false"
EXACT += " limit_predict_batches=1.0"  # settings of the Trainer for predict


def run(
    options: Options,
    *,
    output: Path | None = None,
    format: Literal["onnx", "pt2"] = "onnx",  # noqa: A002
    quantize: Literal["int8"] | None = None,
    prune: float = 0,
    prune_epochs: int = 1,
    tolerance: float = 1e-5,
    gate: list[str] | None = None,
    gate_lower: bool = False,
    candidate: bool = False,
    greedy: bool = False,
    soup: bool = False,
) -> Experiment:
    """Export a model as one file, from pixels to predictions.

    Normalization and test-time augmentation are part of the file. It is run on the whole test set and compared with
    predict in float32; nothing is published if outputs differ by more than the tolerance, or any decision differs.
    A quantized or pruned model is refused if its headline metric on the test set (accuracy, F1, mean absolute error,
    IoU or recall) is worse by more than 0.005, of numbers 0.005 of their standard deviation, and the paired 95 %
    interval of the change has no gain in it. Several --run make an ensemble in one file.

    Args:
        output: the folder of all versions; by default models/NAME.
        format: onnx for any server; pt2, of torch.export, for nets that ONNX cannot express.
        quantize: weights and activations of 8 bits, calibrated on 512 training pictures.
        prune: share of the channels to remove from each layer, in [0, 1), before training on.
        prune_epochs: epochs that a pruned net trains on, with the settings of the run.
        tolerance: largest difference from predict, relative to the largest value if that is above 1.
        gate: what a metric must reach, such as 'test/accuracy>=0.98'. The headline metric is that of the exported file,
            any other that of results.json, known only of the best checkpoint of a run, without other settings typed.
        gate_lower: compare the end of the 95 % interval that is worse.
        candidate: publish the version without making it the current one.
        greedy: choose among several runs, also repeatedly, those whose average is best on the validation split.
        soup: average the weights of several runs, not their predictions; with --greedy, those that make it better.

    Examples:
        python -m src.cli export --run runs/digits/version_0
    """
    require(0 <= prune < 1, f"--prune must be in [0, 1), got {prune:g}")
    require(prune_epochs >= 0, f"--prune_epochs must be at least 0, got {prune_epochs}")
    require(tolerance > 0, f"--tolerance must be above 0, got {tolerance:g}")
    require(not prune or not options.others, "--prune takes one run, because it trains the net on")
    require(not quantize or format == "onnx", "--quantize needs --format onnx")
    check_installed(format == "onnx", prune > 0)
    gates = [Gate.parse(each) for each in gate or []]
    precision = str(parse(options).trainer.precision or "32-true")
    x = start(exact(options), greedy, soup)
    check_data(x)
    let_forward_predict(x.task)
    known = {} if quantize or prune else logged(x, options)
    check_known(gates, headline_name(x) if gates else None, known, gate_lower)
    models = Models(output or Path("models") / (options.run.resolve().parent.name if options.run else x.config.name))
    with models.draft():  # refuses a folder that cannot be written
        pass
    with exit_at_signals(options.owns_process), temporary_folder() as folder:
        file = folder / f"model.{format}"
        variants = [whole := export(x, "float32", file, tolerance)]
        check_scored(whole, "--quantize" if quantize else "--prune" if prune else "")
        if prune:
            pruned(x, options, prune, prune_epochs)
            variants.append(checked(export(x, "pruned", file.with_stem("pruned"), tolerance), whole))
        if quantize:
            variants.append(checked(export_int8(x, variants[-1]), whole))
        metrics = measured(variants[-1].scored)
        for each in gates:
            each.check(known | metrics, gate_lower)
        metrics = metrics or tested(known)
        info = {
            "run": run_names(options),
            "trained_with": trained_with(run_paths(options)),
            "precision_trained": precision,
            "quantized": quantize,
        }
        publish(x, models, variants, info | {"pruned": float(prune), "metrics": metrics}, candidate)
    return x


def exact(options: Options) -> Options:
    """Return options with which predict computes in float32 on the CPU, for the whole test set."""
    settings = [*options.settings, *(f"--trainer.{each}" for each in EXACT.split())]
    return replace(options, settings=settings, others=[exact(each) for each in options.others])


def check_data(x: Experiment) -> None:
    """Refuse data whose pixels a server cannot prepare."""
    data: Any = x.data
    known = isinstance(data, DataModule) and data.holds_images and type(data).__qualname__ in x.stored
    need = "export needs a run on pictures, whose data module derives from src.data.DataModule"
    require(known, f"{need}, got {type(data).__name__}")


def tested(known: Metrics) -> Metrics:
    """Return the metrics of the test set that are numbers, without those of single classes."""
    means = {name: m for name, m in known.items() if name.startswith("test/") and name.count("/") == 1}
    return {name: m for name, m in means.items() if isfinite(m["value"])}


def run_paths(options: Options) -> list[Path]:
    return [each.run.resolve() for each in (options, *options.others) if each.run]


def run_names(options: Options) -> str:
    """Return the end of the path of each run."""
    return ", ".join(f"{path.parent.name}/{path.name}" for path in run_paths(options))
