"""Modules whose arguments have defaults of every kind, to test that config.yaml keeps them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tests.conftest import PlainModule


class Mode(StrEnum):
    """A word that is an Enum."""

    FAST = "fast"


class Color(Enum):
    """An Enum that is no word."""

    RED = 1


@dataclass
class Rates:
    """Settings in a dataclass."""

    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    name: str | None = "sgd"


class Layer(nn.Module):
    """A part whose default is not None, but may be."""

    def __init__(self, weights: str | None = "imagenet", width: int = 3) -> None:
        super().__init__()
        self.weights, self.width = weights, width


class Kept(PlainModule):
    """Defaults that YAML can hold."""

    def __init__(
        self,
        weights: str | None = "imagenet",
        choice: Literal["a", None] = "a",
        infinite: float = float("inf"),
        tiny: float = 1e-12,
        number: str = "1e3",
        octal: str = "010",
        date: str = "2020-01-01",
        null: str = "null",
        either: str | int = "5",
        anything: Any = "12",
        path: Path = Path("x"),
        hour: timedelta = timedelta(hours=1),
        color: Color = Color.RED,
        mode: str = Mode.FAST,
        sizes: tuple[int, ...] = (1, 2),
        table: dict[str, Any] | None = {"a": 1, "b": None},  # noqa: B006
        dtype: torch.dtype = torch.float64,
        rates: Rates = Rates(),  # noqa: B008
        layer: Layer | None = None,
        layers: list[Layer] | None = None,
        make: Callable[[int], nn.Module] = Layer,
        function: Callable = torch.relu,
        kind: type[nn.Module] = nn.Linear,
        untyped=(1, 2),
    ) -> None:
        super().__init__()
        self.values = [weights, choice, infinite, tiny, number, octal, date, null, either, anything, path, hour, color]
        self.values += [mode, sizes, table, dtype, rates, function, kind, untyped, make(3).weights]
        self.values += [each.weights for each in [*(layers or []), *([layer] if layer else [])]]


class LeftOut(PlainModule):
    """Defaults that YAML cannot hold."""

    def __init__(
        self,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        other_device=torch.device("cpu"),  # noqa: B008
        loss=nn.MSELoss(),  # noqa: B008
        tensor: torch.Tensor = torch.ones(2),  # noqa: B008
        function: Callable = lambda x: x,
        table={"a": (1, 2)},  # noqa: B006
        path: str | None = "x",
    ) -> None:
        super().__init__()
        self.values = [device, other_device, type(loss), tensor.tolist(), function(3), table, path]
