"""The rooms of src: who may import whom, and how large a file or a function may grow."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
FILES = sorted(SRC.rglob("*.py"))
MAY_IMPORT: dict[str, set[str]] = {
    "optim": {"optim"},
    "checkpoint": set(),
    "lean": set(),
    "loggers": set(),
    "memory": set(),
    "losses": set(),
    "penalties": set(),
    "predictions": {"data"},
    "report": set(),
    "run": set(),
    "nets": {"nets"},
    "data": {"data"},
    "callbacks": {"callbacks"},
    "tasks": {"optim", "tasks"},
    "mistakes": {"arguments"},
    "cli": {"arguments", "commands", "memory"},
    "arguments": {"run", "trust"},
    "trust": set(),
    "commands": {"data", "mistakes", "predictions", "report", "run", "settings", "trust"},
    "schedule": {"report", "settings"},
    "show": {"data", "report", "settings"},
    "settings": {"arguments", "callbacks", "checkpoint", "lean", "loggers", "mistakes", "report", "run"},
}


def room(path: Path) -> str:
    return path.relative_to(SRC).with_suffix("").parts[0]


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != SRC or path.stem != "__init__"], ids=str)
def test_imports_point_inwards(path: Path) -> None:
    froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    imported = {node.module.split(".")[1] for node in froms if (node.module or "").startswith("src.")}
    imported |= {name.name for node in froms if node.module == "src" for name in node.names} - {"UserError", "say"}
    assert imported <= MAY_IMPORT[room(path)]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_fit_on_a_few_screens(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_fit_on_one_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or body[-1].end_lineno - body[0].lineno < 40, f"{node.name} is too long"


def test_what_every_command_needs_does_not_import_torch() -> None:
    for name in ("__init__", "arguments", "cli", "memory", "run", "trust"):
        tops = [
            node
            for node in ast.parse((SRC / f"{name}.py").read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {(getattr(node, "module", None) or node.names[0].name).split(".")[0] for node in tops}
        assert not names & {"torch", "torchvision", "lightning", "torchmetrics", "sklearn"}


def test_nothing_turns_safe_loading_off() -> None:
    assert not [path for path in FILES if "weights_only=False" in path.read_text().replace(" ", "")]


def test_one_run_is_understood_from_nine_files_and_400_lines() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^\d\. `([^`]+)`", text, re.M)
    assert 5 <= len(listed) <= 9
    assert sum(len((ROOT / name).read_text().splitlines()) for name in listed) <= 400
