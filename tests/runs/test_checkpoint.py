"""A checkpoint is written atomically and loaded safely; weights of another net are named."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import nn

from src import UserError
from src.runs.checkpoint import (
    AtomicCheckpointIO,
    check_weights,
    has_nonfinite,
    left_out,
    load_checkpoint,
    load_first_valid,
    save_checkpoint,
)
from tests.conftest import same

FILE = Path("best.ckpt")
VERSION = {"pytorch-lightning_version": "2.6.6"}


def save(content: Any) -> bytes:
    torch.save(content, FILE)
    return FILE.read_bytes()


def save_valid() -> bytes:
    return save({"state_dict": {"weight": torch.arange(4.0)}, "epoch": 3} | VERSION)


def load_error() -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(FILE)
    assert str(FILE) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mmap", [True, False])
def test_a_checkpoint_is_loaded(mmap: bool) -> None:
    save_valid()
    stored = load_checkpoint(FILE, mmap=mmap)
    assert stored["state_dict"]["weight"].tolist() == [0, 1, 2, 3]
    assert stored["epoch"] == 3


def test_a_missing_checkpoint_is_refused_with_those_of_its_folder() -> None:
    save_valid()
    FILE.rename("last.ckpt")
    assert load_error() == "checkpoint best.ckpt does not exist; found last.ckpt"


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(fraction: float) -> None:
    content = save_valid()
    FILE.write_bytes(content[: int(fraction * len(content))])
    assert "damaged" in load_error()


def test_a_changed_weight_is_refused() -> None:
    content = save_valid()
    place = content.index(torch.arange(4.0).numpy().tobytes())
    FILE.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    assert "is damaged: wrong checksum of best/data/0" in load_error()


def test_a_flipped_byte_anywhere_is_refused_or_harmless() -> None:
    content = save_valid()
    for place in range(0, len(content), 3):
        FILE.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            stored = load_checkpoint(FILE)
        except UserError:
            load_error()
        else:
            assert (stored["epoch"], stored["state_dict"]["weight"].tolist()) == (3, [0, 1, 2, 3])


NO_CHECKPOINTS: dict[str, Callable[[], Any]] = {
    "weights only": lambda: save({"weight": torch.ones(2)}),
    "a tensor": lambda: save(torch.ones(2)),
    "code": lambda: save({"state_dict": {}, "hyper_parameters": {"net": partial(nn.Linear, 2)}}),
    "text": lambda: FILE.write_text("no checkpoint", encoding="utf-8"),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_refused(kind: str) -> None:
    NO_CHECKPOINTS[kind]()
    load_error()


class Layers(LightningModule):
    """Layers named by numbers."""

    def __init__(self, num_layers: int = 2, num_inputs: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(num_inputs, num_inputs) for _ in range(num_layers)))


def stored(**settings: int) -> dict[str, Any]:
    return {"state_dict": Layers(**settings).state_dict()}


def test_weights_of_the_same_net_are_accepted() -> None:
    check_weights(Layers(), stored())


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (stored(num_layers=1), r"2 missing keys \(layers\.1\.weight, layers\.1\.bias\)"),
        (stored(num_layers=3), r"2 unexpected keys \(layers\.2\.weight, layers\.2\.bias\)"),
        (
            stored(num_layers=5),
            r"6 unexpected keys \(layers\.2\.weight, layers\.2\.bias, layers\.3\.weight, layers\.3\.bias, "
            r"layers\.4\.weight, \.\.\.\)",
        ),
        (
            stored(num_layers=1, num_inputs=4),
            r"2 missing keys \(.*\); 2 differently shaped keys "
            r"\(layers\.0\.weight \(4, 4\), now \(3, 3\), layers\.0\.bias \(4,\), now \(3,\)\)",
        ),
    ],
)
def test_weights_of_another_net_are_refused_by_name(content: dict[str, Any], faults: str) -> None:
    with pytest.raises(UserError, match=f"^the checkpoint does not match this net: {faults}$"):
        check_weights(Layers(), content)


def test_a_model_that_is_not_strict_accepts_any_weights() -> None:
    model = Layers()
    model.strict_loading = False
    check_weights(model, stored(num_layers=1))


def test_training_cannot_resume_from_weights_only() -> None:
    save_valid()
    with pytest.raises(UserError, match="holds only weights: it can be tested, but training cannot resume from it"):
        load_checkpoint(FILE, to_resume=True)


def content(value: float = 1.0) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((100_000,), value)}} | VERSION


def test_a_file_is_replaced_and_nothing_else_is_left() -> None:
    for value in (1.0, 2.0):
        AtomicCheckpointIO().save_checkpoint(content(value), Path("folder/last.ckpt"))
    assert load_checkpoint("folder/last.ckpt")["state_dict"]["weight"][0] == 2
    assert [file.name for file in Path("folder").iterdir()] == ["last.ckpt"]


def test_the_next_save_removes_what_a_killed_process_left() -> None:
    Path("last.ckpt.part").write_text("half a file", encoding="utf-8")
    AtomicCheckpointIO().save_checkpoint(content(), "last.ckpt")
    assert not Path("last.ckpt.part").exists()


@pytest.mark.parametrize("max_bytes", [0, 1000, 200_000, 399_999])
def test_a_full_disk_leaves_the_older_file(max_bytes: int) -> None:
    resource: Any = pytest.importorskip("resource")  # absent on Windows
    io = AtomicCheckpointIO()
    io.save_checkpoint(content(1.0), "last.ckpt")
    before, limits = Path("last.ckpt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
        with pytest.warns(UserWarning, match=r"last\.ckpt was NOT saved: File too large; training continues"):
            io.save_checkpoint(content(2.0), "last.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path("last.ckpt").read_bytes() == before
    assert not Path("last.ckpt.part").exists()
    assert io.failed == "File too large"
    io.save_checkpoint(content(2.0), "last.ckpt")
    assert not io.failed
    assert load_checkpoint("last.ckpt")["state_dict"]["weight"][0] == 2


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_non_finite_weights_are_not_written(number: float) -> None:
    with pytest.warns(UserWarning, match="NOT saved: weights are not finite"):
        AtomicCheckpointIO().save_checkpoint(content(number), "last.ckpt")
    assert not Path("last.ckpt").exists()


def test_buffers_of_a_model_may_be_infinite_but_not_its_parameters() -> None:
    model = Layers()
    model.register_buffer("mask", torch.full((2,), float("-inf")))
    io = AtomicCheckpointIO(model)
    io.save_checkpoint({"state_dict": model.state_dict()} | VERSION, "last.ckpt")
    assert not io.failed
    with torch.no_grad():
        model.layers[0].bias[0] = float("inf")
    with pytest.warns(UserWarning, match="NOT saved: weights are not finite"):
        io.save_checkpoint({"state_dict": model.state_dict()} | VERSION, "last.ckpt")


def test_large_weights_are_finite() -> None:
    assert not has_nonfinite(
        {"half": torch.full((1000,), 3000.0, dtype=torch.float16), "large": torch.full((9,), 3e38)}
    )
    assert has_nonfinite({"complex": torch.tensor([1.0, complex(0, float("nan"))])})
    assert not has_nonfinite({"count": torch.tensor(3), "name": "none"})


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises((AttributeError, TypeError, RuntimeError), match="pickle"):
        AtomicCheckpointIO().save_checkpoint(content() | {"hook": lambda: 0}, "last.ckpt")


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/last.ckpt", "https://example.org/last.ckpt"])
def test_no_checkpoint_is_downloaded(path: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_the_first_valid_file_is_loaded_and_the_others_are_named() -> None:
    save_valid()
    Path("last.ckpt").write_bytes(FILE.read_bytes()[:500])
    with pytest.warns(UserWarning, match=r"^checkpoint last\.ckpt is damaged .*; using best\.ckpt instead$"):
        path, stored = load_first_valid(["last.ckpt", FILE])
    assert (path, stored["epoch"]) == ("best.ckpt", 3)
    FILE.unlink()
    with pytest.warns(UserWarning, match="last"), pytest.raises(UserError, match=r"best\.ckpt does not exist"):
        load_first_valid(["last.ckpt", FILE])


def test_a_checkpoint_that_could_not_be_loaded_is_not_saved() -> None:
    file = Path("last.ckpt")
    assert save_checkpoint(content(), file) == ""
    with pytest.raises(UserError, match=r"would contain pathlib\.PosixPath, but only tensors and plain values"):
        save_checkpoint(content() | {"own": [Path("pictures")]}, file)
    assert load_checkpoint(file)["state_dict"]["weight"].equal(content()["state_dict"]["weight"])
    assert [path.name for path in Path().glob("last*")] == ["last.ckpt"]


class Stored(LightningModule):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.save_hyperparameters(settings)


@pytest.mark.parametrize("value", [Path("pictures"), timedelta(1), lambda: 0], ids=lambda v: type(v).__name__)
def test_hyperparameters_that_are_not_plain_are_left_out_with_a_note(value: Any) -> None:
    plain = {"lr": 0.1, "sizes": [1, 2], "names": {"a": None}, "weight": torch.ones(2)}
    assert left_out(Stored(**plain), None) == []
    assert left_out(Stored(**plain, folder=value)) == [("note", "checkpoints leave out the hyperparameters folder")]
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "hyper_parameters": {**plain, "folder": value}}, FILE)
    assert same(torch.load(FILE, weights_only=True)["hyper_parameters"], plain)
