"""Command lines, config files and configs with foreign code, all of them invalid, and what each is answered."""

from pathlib import Path

from tests.bad_settings import SETTINGS

COMMANDS = {
    "misspelled command": (["fitt"], "unknown command 'fitt', did you mean fit?"),
    "no model": (["fit"], "model is required; choose a config with --config"),
    "misspelled config": (["fit", "--config", "configs/digit.yaml"], "config configs/digit.yaml does not exist"),
    "test of random weights": (["test", "--config", "configs/digits.yaml"], "test needs a trained model"),
    "validation of random weights": (["validate", "--config", "configs/digits.yaml"], "validate needs a trained model"),
    "prediction of random weights": (["predict", "--config", "configs/digits.yaml"], "predict needs a trained model"),
    "images for fit": (["fit", "--images", "a.png"], "--images is an option of predict, not of fit"),
    "folder as an output file": (["show", "--output", "."], "--output must be a file, got the folder ."),
    "option without a value": (["fit", "--run"], "--run: expected one argument"),
}
FILES = {  # contents of a config file
    "unclosed brace": (b"trainer: {max_epochs: 1\nmodel: 2\n", "line 2: invalid YAML"),
    "image file": (b"\x89PNG\r\n\x1a\n\x00\x00", "is not UTF-8 text"),
    "null bytes": (b"\x00\x01\x02", "invalid YAML: unacceptable character"),
    "template braces": (b"trainer: {{ value }}\n", "a key must be a word"),
    "empty file": (b"", "must hold settings, 'key: value', got nothing"),
    "empty section": (
        b"data: src.data.Digits\ntrainer:\n",
        "line 2: trainer must hold settings, 'key: value', got nothing",
    ),
    "word for a section": (b"best: val/loss\n", "line 1: best must hold settings, 'key: value', got val/loss"),
    "empty run name": (b"name:\n", "line 1: name must be a word, got nothing"),
    "list": (b"- 1\n- 2\n", "must hold settings, 'key: value', got sequence"),
    "duplicate key": (
        b"trainer:\n  max_epochs: 1\n  devices: 1\n  max_epochs: 2\n",
        "line 4: key 'max_epochs' is already set in line 2",
    ),
    "misspelled section": (b"modle: {}\n", "unknown setting modle, did you mean model?"),
    "recursive alias": (b"data: &a [*a]\n", "has an alias that contains itself"),
    "section without a class": (
        b"model: {class_path: src.tasks.Classifier, init_args: {net: src.nets.SmalCNN}}\n",
        "did you mean src.nets.SmallCNN?",
    ),
}
DOORS = {  # configs that name code; given/beside.yaml, other.yaml and other.txt name evil.Net
    "class path": "model: {class_path: evil.Net}",
    "short class path": "model: evil.Net",
    "namespace package": "model: {class_path: folder.evil.Net}",
    "net": "model: {class_path: src.tasks.Classifier, init_args: {num_classes: 10, net: {class_path: evil.Net}}}",
    "callback": "trainer: {callbacks: [{class_path: evil.Net}]}",
    "logger": "trainer: {logger: {class_path: subprocess.Popen, init_args: {args: touch ran}}}",
    "function": "model: {class_path: src.tasks.Classifier, init_args: {num_classes: 10, init: os.system}}",
    "function of a package": (
        "model: {class_path: src.tasks.Classifier, init_args: {num_classes: 10, init: torch.os.system}}"
    ),
    "string of YAML": "trainer: {callbacks: '[{class_path: evil.Net}]'}",
    "string in a string": """model: '"{class_path: evil.Net}"'""",
    "built-in": "model: {class_path: builtins.eval}",
    "anchor": "data: &evil evil.Net\nmodel: *evil",
    "another file": "model: other.yaml",
    "file with another suffix": "model: other.txt",
    "file next to the config": "model: beside.yaml",
    "file that names itself": "data: bad.yaml\nmodel: evil.Net",
    "tag": "model: !!python/object/apply:os.system [touch ran]",
}


def commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Write the invalid configs into a folder; return the arguments to run there and the expected messages, by name."""
    found = {name: (["fit", "--config=configs/digits.yaml", *args], text) for name, (args, text) in SETTINGS.items()}
    for i, (name, (content, text)) in enumerate(FILES.items()):
        (folder / f"bad_{i}.yaml").write_bytes(content)
        found[name] = ["fit", f"--config=bad_{i}.yaml"], text
    return found | COMMANDS


def build(door: str, folder: Path) -> Path:
    """Write a config that tries to run a module of its own, which would create the file ``ran``."""
    (folder / "folder").mkdir(parents=True)
    for place in (folder, folder / "folder"):
        (place / "evil.py").write_text(
            "from pathlib import Path\nPath('ran').touch()\nfrom src.nets import MLP as Net\n"
        )
    (folder / "given").mkdir()
    for name in ("other.yaml", "other.txt", "given/beside.yaml"):
        (folder / name).write_text("class_path: evil.Net")
    (folder / "given/bad.yaml").write_text(DOORS[door])
    return Path("given/bad.yaml")
