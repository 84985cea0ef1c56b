"""Settings, run folders and pictures changed at random, and what a command that reads them must do."""

import io
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from src.config.arguments import Options
from src.config.parser import parse, plain_config
from tests.processes import PICTURES, ROOT, SMALL, TIMED_OUT, Process, draw_pictures

SHORT = ["--trainer.fast_dev_run=1"]
DIGITS = f"{ROOT}/configs/digits.yaml"
VALUES: tuple[str, ...] = (
    "",
    "0",
    "-1",
    "1e999",
    "nan",
    "null",
    "true",
    "[]",
    "{}",
    "a b",
    "é",
    "../x",
    "1,2",
    "[1,2]",
    "x" * 300,
)
VALUES += (
    "{class_path: src.nets.MLP}",
    "src.nets.MLP",
    "torch.nn.ReLU",
    "[[1]]",
    "{a: 1}",
    "1.5",
    "99999999999",
    "a.b",
)
FILES: tuple[str, ...] = ("config.yaml", "results.json", "provenance.json", "metrics.csv")
FILES += ("checkpoints/best.ckpt", "checkpoints/last.ckpt")
TEXTS = ("", "[]", "{}", "null", "1", "[[1]]", '{"a": [1]}', "a,b\n1,2\n", "step\nx\n", "[" * 5000, "\0", "- 1\n")
COMMANDS = (["fit", "--trainer.max_epochs=2"], ["test"], ["validate"], ["predict"], ["fit", "--resume=auto"])


def mutated(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Settings with random values, names and types: exit code 0 or 2, at most 5 lines of error, within 30 seconds."""
    config = plain_config(parse(Options("fit", [DIGITS])))
    keys = [key for key in names(config) if not key.endswith("root")]
    for i in range(tries):
        key, value = draw.choice(keys), draw.choice(VALUES)
        if draw.random() < 0.2:
            place = draw.randrange(len(key))
            key = key[:place] + draw.choice("abc._[]=") + key[place + draw.randint(0, 2) :]
        setting = f"--{key}={value}"
        wrong = answered(Process(["fit", *SMALL[:1], *SHORT, setting], folder / str(i)))
        yield wrong and f"{setting[:80]}: {wrong}"


def names(settings: Any, prefix: str = "") -> list[str]:
    """Return the names of nested settings as they are typed."""
    if not isinstance(settings, dict):
        return [prefix]
    inner: list[str] = []
    for key, value in settings.items():
        inner += names(value, prefix if key == "init_args" else f"{prefix}.{key}")
    return [name.strip(".").removesuffix(".class_path") for name in inner]


def edited(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Run folders with a file changed, cut, deleted or replaced: the same for fit, test, validate and predict."""
    assert Process(["fit", *SMALL[:-1], "--trainer.max_epochs=1"], folder / "run").wait() == 0
    for i in range(tries):
        place, command = folder / str(i), draw.choice(COMMANDS)
        shutil.copytree(folder / "run", place)
        run = place / "runs/digits/version_0"
        what = edit(run / draw.choice(FILES), draw)
        which = f"--config={DIGITS}" if command[-1] == "--resume=auto" else "--run=runs/digits/version_0"
        wrong = answered(Process([*command, which], place))
        yield wrong and f"{command[0]} after {what}: {wrong}"


def edit(file: Path, draw: random.Random) -> str:
    """Spoil a file of a run at random; return what was done."""
    content, how = file.read_bytes(), draw.choice(("bytes", "cut", "delete", "folder", "text", "values", "values"))
    if how == "bytes":
        places = {draw.randrange(len(content)) for _ in range(5)}
        file.write_bytes(bytes(draw.randrange(256) if i in places else byte for i, byte in enumerate(content)))
    elif how == "cut":
        file.write_bytes(content[: draw.randrange(len(content))])
    elif how == "text":
        file.write_text(draw.choice(TEXTS), encoding="utf-8")
    elif how == "values" and file.suffix == ".ckpt":
        torch.save(spoil(torch.load(file, weights_only=True), draw), file)
    elif how == "values" and file.suffix in (".yaml", ".json"):
        file.write_text(
            yaml.safe_dump(spoil(yaml.safe_load(content), draw), default_flow_style=file.suffix == ".json"),
            encoding="utf-8",
        )
    else:
        file.unlink()
        if how == "folder":
            file.mkdir()
    return f"{how} of {file.name}"


def spoil(tree: Any, draw: random.Random) -> Any:
    """Return nested values with one of them replaced by a value of another type."""
    if not isinstance(tree, dict | list) or not tree or draw.random() < 0.1:
        return draw.choice((None, 1, -1.5, "x", [1], {"a": 1}, True))
    key = draw.choice(range(len(tree)) if isinstance(tree, list) else list(tree))
    tree[key] = spoil(tree[key], draw)
    return tree


def redrawn(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Pictures with bytes changed or cut, ten to a run: skipped or decoded, with a line for each run at most."""
    draw_pictures(folder / "pictures")
    for i in range(-(-tries // 10)):
        for number in range(10):
            kind = draw.choice(("png", "jpeg", "gif", "tiff", "bmp", "webp"))
            buffer = io.BytesIO()
            Image.frombytes("RGB", (16, 16), draw.randbytes(768)).save(buffer, kind)
            content = bytearray(buffer.getvalue())
            for _ in range(draw.randint(1, 20)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            file = folder / f"pictures/train/3/mutated_{number}.{kind}"
            file.write_bytes(content[: draw.randrange(len(content)) if draw.random() < 0.3 else None])
        args = [*PICTURES, "--data.num_workers=0", "--data.on_bad_image=skip", *SHORT]
        wrong = answered(Process(["fit", *SMALL[:-1], *args], folder / "runs"))
        yield from [wrong and f"run {i}: {wrong}"] * 10


def answered(process: Process) -> str:
    """Return what is wrong with how a command ended: it must succeed, or name its error in one line, in 30 seconds."""
    code, output = process.wait(30), process.log.read_text(errors="replace", encoding="utf-8")
    process.log.unlink()
    lines = [line for line in output.splitlines() if line.strip()]
    if code == TIMED_OUT:
        return "no end within 30 seconds"
    right = "Traceback" not in output and (code == 0 or (code == 2 and len(lines) <= 5 and "error: " in lines[-1]))
    return "" if right else f"exit code {code}: {output[-600:]}"
