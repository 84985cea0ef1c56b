"""Variants: the model in float32, pruned or with 8 bits, each as a file that is compared with predict and timed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src import require
from src.commands.exports import files, parity
from src.commands.exports.card import agreement
from src.commands.exports.graph import Graph, trace
from src.commands.exports.quantize import quantize, training_pictures
from src.config.build import Experiment


@dataclass
class Variant:
    """An exported file, and what it returns for the test set."""

    name: str
    file: Path
    graph: Graph
    expected: files.Outputs  # of predict, for the test set
    session: files.Session
    answers: files.Outputs
    parity: dict[str, Any]
    scored: Any  # answers with their targets, None if the test set has none
    notes: list[str] = field(default_factory=list)


def measure(x: Experiment, name: str, file: Path, graph: Graph, expected: files.Outputs) -> Variant:
    """Run a file on the whole test set, and compare what it returns with what is expected."""
    session = files.open_session(file, [*expected])
    answers = parity.answers(x, session)
    found = parity.compare(x, graph, expected, answers)
    return Variant(name, file, graph, expected, session, answers, found, parity.scored(x, graph.kind, answers))


def export(x: Experiment, name: str, file: Path, tolerance: float) -> Variant:
    """Export a task in float32; refuse a file that does not return what predict does."""
    data: Any = x.data
    kind, expected = parity.predict(x)
    graph = Graph(x, kind)
    files.write(trace(graph, data.shape), [*expected], file)
    made = measure(x, name, file, graph, expected)
    largest, other = made.parity["max_difference"], made.parity["disagreements"]
    hint = "" if other else f"; allow it with --tolerance={largest * 1.1:.1e}"
    text = f"the exported {name} model {agreement(made.parity)}; the tolerance is {tolerance:g}{hint}"
    require(largest <= tolerance and not other, text)
    return made


def export_int8(x: Experiment, whole: Variant) -> Variant:
    """Quantize an exported file."""
    file = whole.file.with_name("int8.onnx")
    quantize(whole.file, file, training_pictures(x))
    return measure(x, "int8" if whole.name == "float32" else f"{whole.name} int8", file, whole.graph, whole.expected)


def check_scored(whole: Variant, option: str) -> None:
    """Refuse to make a model smaller that no metric can compare."""
    why = f"{whole.graph.kind}, whose test set has no targets for a metric"
    require(whole.scored or not option, f"{option} is checked by accuracy or the like, but this model returns {why}")


def checked(made: Variant, whole: Variant) -> Variant:
    """Refuse a smaller model that is worse than the whole one on the test set."""
    made.notes.append(f"{made.name}: {parity.check_loss(whole.scored, made.scored, made.name)}, compared with float32")
    return made
