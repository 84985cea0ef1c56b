"""Draw docs/terminal.svg, a picture of what ``make train`` prints: python -m tools.terminal."""

import os
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/terminal.svg"
COMMAND = ["python", "-m", "src.cli", "fit", "--config", "configs/digits.yaml"]


def draw(file: Path = PICTURE) -> None:
    """Run the command in an empty folder, and save its output as a terminal of 80 columns shows it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "configs").symlink_to(ROOT / "configs")
        environment, command = os.environ | {"PYTHONPATH": str(ROOT)}, [sys.executable, *COMMAND[1:]]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    console = Console(record=True, width=80, file=StringIO())
    console.print(Text(f"$ {' '.join(COMMAND)}\n{done.stdout}"), no_wrap=True, overflow="crop")
    console.save_svg(str(file), title="")


if __name__ == "__main__":
    draw()
