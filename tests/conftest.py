"""What every test gets: a folder of its own and one thread; and what several tests use."""

import csv
import gc
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn

from src.cli import NOISE, main
from src.engine.signals import SIGNALS

ROOT = Path(__file__).parents[1]
FIT = ["fit", "--config=configs/digits.yaml", "--model.net.width=4", "--trainer.max_epochs=2", "--test=false"]
# settings only: a net with dropout, and augmentation, whose random numbers a resumed run must draw again
SMALL = [
    "--config=configs/digits.yaml",
    "--model.net=src.nets.MLP",
    "--model.net.image_shape=[1,8,8]",
    "--model.net.hidden_sizes=[16]",
    "--model.net.dropout=0.2",
    "--trainer.max_epochs=3",
]
# for processes that a test starts in its own folder, next to what the caller's variable names
PATH = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs links, pipes, limits or signals of POSIX")
COPIED: list[Path] = []  # the copy of configs/ that all tests of a session share

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # or Lightning raises the number for DDP, and later forks wait for those threads
GPUS = {name: getattr(torch.cuda, name) for name in ("is_available", "device_count")}
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")


def pytest_configure(config: pytest.Config) -> None:
    """Ignore the warnings that the command line ignores; all others are errors."""
    for message in NOISE:
        config.addinivalue_line("filterwarnings", f"ignore:{message}")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:lightning|jsonargparse")
    config.addinivalue_line("filterwarnings", "ignore:.*does not have many workers")  # on machines of more cores


@pytest.fixture(scope="session", autouse=True)
def _without_gpu() -> Iterator[None]:
    """Hide GPUs, so that numbers do not depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show the GPUs; skip the test where there is none."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if VISIBLE is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)
    for name, function in GPUS.items():
        monkeypatch.setattr(torch.cuda, name, function)
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def _copied_configs(tmp_path_factory: pytest.TempPathFactory) -> None:
    COPIED.append(shutil.copytree(ROOT / "configs", tmp_path_factory.mktemp("copied") / "configs"))


def add_configs(folder: Path) -> None:
    """Add configs/ to a folder: hard links of one copy, because Windows has no symbolic links and copying is slow."""
    shutil.copytree(COPIED[0], folder / "configs", copy_function=os.link)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start in an empty folder with configs/, so that no test writes into the checkout."""
    add_configs(tmp_path)
    monkeypatch.chdir(tmp_path)


@contextmanager
def in_folder(folder: Path) -> Iterator[Path]:
    """Work in a folder with configs/."""
    with pytest.MonkeyPatch.context() as patch:
        add_configs(folder)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with in_folder(tmp_path_factory.mktemp("trained")) as folder:
        main(["fit", *SMALL, "--trainer.max_epochs=1"])
    return folder / "runs/digits/version_0"


@pytest.fixture
def trained(_trained: Path) -> Path:
    """Copy a run of one epoch with the settings SMALL, trained once a session, to runs/digits/version_0."""
    return shutil.copytree(_trained, Path("runs/digits/version_0"))


@pytest.fixture(scope="session")
def _three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with in_folder(tmp_path_factory.mktemp("three")) as folder:
        for seed in range(3):
            hidden = f"--model.net.hidden_sizes=[{24 if seed == 2 else 16}]"
            main(["fit", *SMALL, hidden, "--trainer.max_epochs=1", f"--seed_everything={seed}"])
    return folder / "runs"


@pytest.fixture
def three(_three: Path) -> list[str]:
    """Copy three runs of one epoch, the last of a wider net, and return their folders; they are trained once."""
    shutil.copytree(_three, "runs")
    return [f"runs/digits/version_{i}" for i in range(3)]


def heavy(values: Iterable[Any], *names: str) -> list[Any]:
    """Return the values of a parameter; those whose text contains one of the names are left out of ``make test``."""
    slow = [value for value in values if any(name in str(value) for name in names)]
    return [pytest.param(value, marks=pytest.mark.heavy) if value in slow else value for value in values]


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail with exit code 2, and return its only line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert len(err) < 500
    assert "Traceback" not in err
    assert "usage:" not in err
    return err


def same(a: Any, b: Any) -> bool:
    """Tell whether two values are equal to the bit, tensors in dicts and lists included."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def weights(run: str | Path, kind: Literal["best", "last"] = "last") -> dict[str, Tensor]:
    """Return the weights of a checkpoint of a run."""
    return torch.load(f"{run}/checkpoints/{kind}.ckpt", weights_only=True)["state_dict"]


def rows(run: str | Path) -> list[dict[str, str]]:
    """Return the rows of a run's metrics.csv."""
    return list(csv.DictReader(Path(run, "metrics.csv").read_text(encoding="utf-8").splitlines()))


def process_state() -> dict[str, Any]:
    """Return what belongs to the whole process: signal handlers, warnings, logging, garbage collection."""
    handlers = [signal.getsignal(number) for number in SIGNALS]
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    return {
        "signals": [getattr(handler, "__qualname__", str(handler)) for handler in handlers],
        "filters": [repr(each) for each in warnings.filters],
        "showwarning": warnings.showwarning.__qualname__,
        "disabled": logging.root.manager.disable,
        "levels": [logging.getLogger(name).level for name in names],
        "gc": [gc.isenabled(), *gc.get_threshold(), gc.get_freeze_count() > 0],  # frozen objects may be freed,
    }


class PlainModule(LightningModule):
    """A classifier of digits that uses nothing of this project."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr, self.net = lr, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)
