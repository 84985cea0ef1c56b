"""Invalid commands and configs and the error message that each must get; configs that try to run code."""

import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from src.cli import main
from tests.bad_inputs import DOORS, build, commands
from tests.processes import ROOT, Process, refusal


def inputs(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Invalid settings, commands and configs: exit code 2 and one line that names the error, before training."""
    folder.mkdir(parents=True)
    (folder / "configs").symlink_to(ROOT / "configs")
    known = commands(folder)
    for name in draw.sample(sorted(known), min(tries, len(known))):
        args, text = known[name]
        wrong = refusal(Process(args, folder), text)
        wrong = wrong or ("a run was started" if any(folder.glob("runs/*/*")) else "")
        yield wrong and f"{name}: {wrong}"


def doors(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Configs that try to run code or to write files elsewhere, without --trust: rejected, and none of it happens."""
    for door in draw.sample(sorted(DOORS), min(tries, len(DOORS))):
        place = folder / door
        config = build(door, place)
        text = {"tag": "a tag must not name code", "file that names itself": "loop"}.get(door, "--trust")
        wrong = refusal(Process(partial(fit_in, place, config), place), text)
        yield f"{door}: it ran" if (place / "ran").exists() else wrong and f"{door}: {wrong}"


def fit_in(folder: Path, config: Path) -> None:
    """Train on digits with a config, in a folder whose modules can be imported, as with ``python -m``."""
    sys.path.insert(0, str(folder))
    main(["fit", f"--config={ROOT}/configs/digits.yaml", f"--config={config}"], owns_process=True)
