"""The bar of a terminal."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import RichProgressBar

from src.callbacks import Bar


def test_it_moves_twice_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    now = iter(range(100))
    monkeypatch.setattr("src.callbacks.bar.time", SimpleNamespace(monotonic=lambda: 10 + next(now) / 10))
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", lambda _, *args: moved.append(args[-1]))
    monkeypatch.setattr(Bar, "total_train_batches", 15)
    bar: Any = Bar()
    for batch_idx in range(15):
        bar.on_train_batch_end(None, None, None, None, batch_idx)
    assert moved == [0, 6, 12, 14]
