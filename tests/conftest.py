"""What every test gets: a folder of its own to work in, and one thread so that tests can run side by side."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start in an empty folder with links to configs/ and src/, so that no test writes into the checkout."""
    root = Path(__file__).parents[1]
    (tmp_path / "configs").symlink_to(root / "configs")
    monkeypatch.chdir(tmp_path)
