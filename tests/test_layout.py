"""The layout of src: who may import whom, how large files and functions may grow, and what one run executes."""

import ast
import os
import re
import subprocess
import sys
import tempfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import PATH, add_configs

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
FILES = sorted(SRC.rglob("*.py"))
MAY_IMPORT: dict[str, set[str]] = {
    "cli": {"commands", "config", "runs"},
    "commands": {"analysis", "config", "data", "decoding", "engine", "protocols", "runs", "tasks"},
    "analysis": set(),
    "config": {"engine", "protocols", "runs"},
    "engine": {"protocols", "runs"},
    "runs": {"analysis", "protocols"},
    "tasks": {"losses", "nets", "optim", "protocols"},
    "data": {"decoding"},
    "nets": set(),
    "optim": set(),
    "losses": set(),
    "callbacks": {"analysis", "protocols"},
    "decoding": set(),
    "protocols": set(),
}
WITHOUT_TORCH = (
    "__init__",
    "analysis/drift",
    "cli",
    "commands/new",
    "decoding",
    "protocols",
    "config/arguments",
    "config/checks",
    "runs/folder",
    "runs/records",
    "runs/summary",
)
ROOT_NAMES = {
    "UserError",
    "at_least_float32",
    "compile_pattern",
    "Held",
    "hold",
    "load_run",
    "lock",
    "quote",
    "read_json",
    "replace_file",
    "require",
    "TAKEN",
}  # of src itself, which all may import
HEAVY = {"torch", "torchvision", "lightning", "torchmetrics", "sklearn", "matplotlib", "jsonargparse"}
PRIVATE = re.compile(r"^_[a-z]")


def room(file: Path) -> str:
    return file.relative_to(SRC).with_suffix("").parts[0]


def imports(file: Path) -> set[str]:
    """Return the other rooms that a file imports anything from, wherever the import stands."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {node.module.split(".")[1] for node in froms if (node.module or "").startswith("src.")}
    names |= {name.name for node in froms if node.module == "src" for name in node.names} - ROOT_NAMES
    if room(file) == "cli":
        names.add("commands")  # by import_module
    return names - {room(file)}


def arrows() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {room(file): set() for file in FILES if file != SRC / "__init__.py"}
    for file in FILES:
        if file != SRC / "__init__.py":
            found[room(file)] |= imports(file)
    return found


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_it_may(name: str) -> None:
    assert arrows()[name] <= MAY_IMPORT[name]


def test_few_rooms_import_each_other_and_never_in_a_circle() -> None:
    found = arrows()
    pairs = sum(map(len, found.values()))
    print(f"{len(found)} rooms, {pairs} pairs of imports between them")  # noqa: T201
    assert set(found) == set(MAY_IMPORT)
    assert len(found) <= 14
    assert pairs <= 36
    assert len([*TopologicalSorter(found).static_order()]) == len(found)  # raises CycleError


def test_the_map_of_rooms_names_no_import_that_is_gone() -> None:
    assert {name: MAY_IMPORT[name] - found for name, found in arrows().items() if MAY_IMPORT[name] - found} == {}


def project_files() -> set[Path]:
    """Return the files that commands, rooms and presets use, without those that only a config of the user names."""
    found: set[Path] = set()
    new = {SRC / "cli.py", SRC / "engine/sharding.py", *SRC.glob("commands/*.py"), *SRC.rglob("__init__.py")}
    while new:
        found |= new
        froms = [
            node
            for file in new
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
        ]
        names = {
            name for node in froms for name in (node.module, *(f"{node.module}.{each.name}" for each in node.names))
        }
        names |= {
            name
            for file in new
            for name in re.findall(r'import_module\("([\w.]+)"\)', file.read_text(encoding="utf-8"))
        }
        new = {file for file in FILES if ".".join(file.relative_to(ROOT).with_suffix("").parts) in names} - found
    return found


def test_src_as_a_whole_stays_small() -> None:
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in project_files()) <= 23617


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_a_file_has_at_most_200_lines(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("file", sorted(SRC.glob("tasks/*.py")), ids=lambda file: file.name)
def test_a_task_has_at_most_80_lines(file: Path) -> None:
    around = ("base.py", "metrics.py", "scores.py", "setup.py")  # what all tasks share
    assert file.name in around or len(file.read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_a_function_body_has_at_most_40_lines(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or body[-1].end_lineno - body[0].lineno < 40, f"{node.name} is too long"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_private_names_of_libraries_stay_in_the_engine(file: Path) -> None:
    if room(file) == "engine":
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and PRIVATE.match(node.attr)}
    named = {name for name in named if not name.startswith("_foreach_")} - {"_exit"}  # documented, in spite of the name
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named |= {name.name for node in froms for name in node.names if PRIVATE.match(name.name)}
    assert named == set()


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_every_command_needs_does_not_import_torch(name: str) -> None:
    top = ast.parse((SRC / f"{name}.py").read_text(encoding="utf-8")).body
    modules = [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
    modules += [each.name for node in top if isinstance(node, ast.Import) for each in node.names]
    assert not {module.split(".")[0] for module in modules} & HEAVY


def test_nothing_turns_safe_loading_off() -> None:
    assert not [file for file in FILES if "weights_only=False" in file.read_text(encoding="utf-8").replace(" ", "")]


@pytest.mark.parametrize("folder", ["src", "scripts", "tests", "tools"])
def test_text_is_read_and_written_as_utf8(folder: str) -> None:
    for file in sorted((ROOT / folder).rglob("*.py")):  # ruff's PLW1514 sees it only where a Path is created
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                texts = {"read_text": 0, "write_text": 1}
                missing = len(node.args) == texts.get(node.func.attr) and "encoding" not in {
                    k.arg for k in node.keywords
                }
                assert not missing, f"{file}, line {node.lineno}"


TRACE = """
import sys
ROOT = sys.argv[1] + "/"
found = {}
def trace(frame, event, arg):
    code = frame.f_code
    inside = code.co_filename.startswith(ROOT + "src/") and code.co_flags & 2 and code.co_name != "<module>"
    if event == "call" and inside:
        found.setdefault((code.co_filename.removeprefix(ROOT), code.co_qualname))
sys.setprofile(trace)
from src.cli import main
main(["fit", "--config=configs/digits.yaml", "--trainer.max_epochs=1", *sys.argv[2:]])
sys.setprofile(None)
for file, name in found:
    print(file, name, file=sys.stderr)
"""


def called(*settings: str) -> set[tuple[str, str]]:
    """Return the functions of src that a digits run calls, each with its file."""
    with tempfile.TemporaryDirectory() as folder:
        add_configs(Path(folder))
        environment = os.environ | PATH
        command = [sys.executable, "-W", "ignore", "-c", TRACE, str(ROOT), *settings]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    lines = [line.partition(" ") for line in done.stderr.splitlines() if line.startswith("src/")]
    return {(file, name) for file, _, name in lines}


@pytest.fixture(scope="module")
def executed() -> set[str]:
    """Return the files of src that contain a function which a digits run calls."""
    return {file for file, _ in called("--no_page")}


def test_a_digits_run_executes_at_most_30_files(executed: set[str]) -> None:
    print(f"a digits run executes {len(executed)} files")  # noqa: T201
    assert len(executed) <= 30


def test_the_map_in_contributing_is_what_a_digits_run_executes(executed: set[str]) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    edited, around = (
        set(re.findall(r"^- `([\w/]+\.\w+)`", text.split(heading)[1].split("\n#")[0], re.M))
        for heading in ("### Files you edit", "### The engine around them")
    )
    assert len(edited) <= 6
    assert "configs/digits.yaml" in edited
    assert (edited | around) - {"configs/digits.yaml"} == executed
    assert not edited & around
