"""The command ``new``: write a file of your own, with its config and its test; without torch."""

import ast
import builtins
import re
import sys
from contextlib import suppress
from keyword import iskeyword
from pathlib import Path
from string import Template

from src import UserError, require
from src.config.arguments import Options
from src.config.checks import did_you_mean
from src.runs.summary import echo, print_rows

ROOT = Path(__file__).parents[2]
TEMPLATES = Path(__file__).parent / "templates"
ROOMS = {"task": "tasks", "net": "nets", "data": "data", "loss": "losses", "callback": "callbacks"}
LONGEST = 30  # characters of a name, so that no line of a file is too long


def run(options: Options) -> None:
    """Write a task, net, data set, loss or callback with config and test.

    KIND is task, net, data, loss or callback. NAME names the class and the files:
    MyNet, my_net and my-net write the class MyNet in src/nets/my_net.py, its config
    configs/my_net.yaml, which trains on scikit-learn's digits, and its test
    tests/nets/test_my_net.py. They work as they are, and no other file changes.

    Examples:
        python -m src.cli new net MyNet
    """
    if {"-h", "--help", "--help-all"} & {*options.settings}:
        echo(f"usage: python -m src.cli new KIND NAME\n\n{options.description}")
        return
    kind, name = read_words(options)
    module, class_name = names(name)
    files = {path: fill(template, module, class_name) for path, template in places(kind, module).items()}
    refuse_taken(kind, module, class_name, files)
    write(files)
    code, config, test = (path.relative_to(ROOT).as_posix() for path in files)
    next_commands = [f"pytest {test}", f"src.cli check --config {config} --fit", f"src.cli fit --config {config}"]
    rows = [(kind, code), ("config", config), ("test", test), ("", "")]
    print_rows(rows + [("" if i else "next", f"python -m {each}") for i, each in enumerate(next_commands)])


def read_words(options: Options) -> tuple[str, str]:
    """Return KIND and NAME; refuse everything else that was typed."""
    typed = [*options.settings, *options.config, *([str(options.run)] if options.run else [])]
    kinds = f"kinds: {', '.join(ROOMS)}"
    require(
        len(typed) == 2, f"new needs a KIND and a NAME, as in: new net MyNet; {kinds}; got {' '.join(typed) or 'none'}"
    )
    kind, name = typed
    require(kind in ROOMS, f"new: there is no kind {kind!r}{did_you_mean(kind, ROOMS)}; {kinds}")
    return kind, name


def names(name: str) -> tuple[str, str]:
    """Return the names of module and class, such as my_net and MyNet; refuse those that Python already uses."""
    valid = re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*", name) and len(name) <= LONGEST
    form = f"English letters, digits and single _ or -, with a letter first, at most {LONGEST} characters"
    require(valid, f"new: NAME must be {form}, such as MyNet; got {name[:60]!r}")
    class_name = "".join(word[0].upper() + word[1:] for word in re.split("[_-]", name))
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).replace("-", "_").lower()
    for each in (module, class_name):
        used = iskeyword(each) or hasattr(builtins, each) or each in sys.stdlib_module_names
        require(not used, f"new: {each} is a name of Python itself; choose another NAME, such as My{class_name}")
    return module, class_name


def places(kind: str, module: str) -> dict[Path, Path]:
    """Return the template of each file to write: the code, its config and its test."""
    room, folder = ROOMS[kind], TEMPLATES / kind
    return {
        ROOT / "src" / room / f"{module}.py": folder / f"{kind}.py.txt",
        ROOT / "configs" / f"{module}.yaml": folder / f"{kind}.yaml",
        ROOT / "tests" / room / f"test_{module}.py": folder / f"test_{kind}.py.txt",
    }


def fill(template: Path, module: str, class_name: str) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(name=module, Name=class_name)


def refuse_taken(kind: str, module: str, class_name: str, files: dict[Path, str]) -> None:
    """Refuse names of files and modules that exist, and of classes that the room exports or the new file imports."""
    code = next(iter(files))
    for path in (*files, code.with_suffix("")):
        taken = path.exists() or path.is_symlink()
        require(not taken, f"new: {path.relative_to(ROOT).as_posix()} exists; choose another NAME than {module}")
    exports = code.with_name("__init__.py")
    for text in (exports.read_text(encoding="utf-8") if exports.is_file() else "", files[code]):
        imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        origins = {name.asname or name.name: node.module for node in imports for name in node.names}
        origin = origins.get(class_name)
        require(origin is None, f"new: {origin} has a class {class_name}; choose another NAME for the {kind}")


def write(files: dict[Path, str]) -> None:
    """Write all files, none of which exists; after an error or interruption, none."""
    written: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", newline="\n") as file:
                written.append(path)
                file.write(text)
    except BaseException as error:
        for each in written:
            with suppress(OSError):
                each.unlink()
        if isinstance(error, OSError):
            raise UserError(f"new: cannot write {path} ({error.strerror}); nothing was written") from None
        raise
