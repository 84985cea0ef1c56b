"""A checkpoint is read whole and safely or refused in one line; weights of another net are named."""

import resource
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import LightningModule
from torch import nn

from src import UserError
from src.checkpoint import Durable, check_hyper_parameters, check_weights, first_whole, read, write

FILE = Path("best.ckpt")


def save(content) -> bytes:
    torch.save(content, FILE)
    return FILE.read_bytes()


def whole() -> bytes:
    return save({"state_dict": {"weight": torch.arange(4.0)}, "epoch": 3, "pytorch-lightning_version": "2.6.6"})


def refused() -> str:
    with pytest.raises(UserError) as caught:
        read(FILE)
    assert str(FILE) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_read():
    whole()
    stored = read(FILE)
    assert stored["state_dict"]["weight"].tolist() == [0, 1, 2, 3]
    assert stored["epoch"] == 3


def test_an_absent_checkpoint_is_refused_and_its_neighbours_named():
    whole()
    FILE.rename("last.ckpt")
    assert refused() == "checkpoint best.ckpt does not exist; there are: last.ckpt"


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(share):
    content = whole()
    FILE.write_bytes(content[: int(share * len(content))])
    assert "damaged" in refused()


def test_a_changed_weight_is_refused():
    content = whole()
    place = content.index(torch.arange(4.0).numpy().tobytes())
    FILE.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    assert "damaged: the checksum of best/data/0 is wrong" in refused()


def test_a_flipped_byte_anywhere_is_refused_in_one_line_or_harmless():
    content = whole()
    for place in range(0, len(content), 3):
        FILE.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            stored = read(FILE)
        except UserError:
            refused()
        else:
            assert (stored["epoch"], stored["state_dict"]["weight"].tolist()) == (3, [0, 1, 2, 3])


def nothing_of_lightning() -> None:
    save({"weight": torch.ones(2)})


def a_tensor() -> None:
    save(torch.ones(2))


def code() -> None:
    save({"state_dict": {}, "hyper_parameters": {"net": partial(nn.Linear, 2)}})


def text() -> None:
    FILE.write_text("no checkpoint")


@pytest.mark.parametrize("make", [nothing_of_lightning, a_tensor, code, text])
def test_a_file_that_is_no_checkpoint_is_refused(make):
    make()
    refused()


class Layers(LightningModule):
    """Layers named by numbers."""

    def __init__(self, num_layers: int = 2, num_inputs: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(num_inputs, num_inputs) for _ in range(num_layers)))


def stored(**settings) -> dict:
    return {"state_dict": Layers(**settings).state_dict()}


def test_weights_of_the_same_net_are_taken():
    check_weights(Layers(), stored())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (stored(num_layers=1), r"keys 2 missing \(layers\.1\.weight, layers\.1\.bias\)$"),
        (stored(num_layers=3), r"keys 2 unexpected \(layers\.2\.weight, layers\.2\.bias\)$"),
        (
            stored(num_layers=5),
            r"6 unexpected \(layers\.2\.weight, layers\.2\.bias, layers\.3\.weight, layers\.3\.bias, "
            r"layers\.4\.weight, \.\.\.\)$",
        ),
        (
            stored(num_layers=1, num_inputs=4),
            r"2 missing \(.*\); 2 of another shape \(layers\.0\.weight \(4, 4\), now \(3, 3\), .*\)$",
        ),
    ],
)
def test_weights_of_another_net_are_refused_by_name(content, message):
    with pytest.raises(UserError, match=f"the checkpoint is of another net; .*{message}"):
        check_weights(Layers(), content)


def test_a_model_that_is_not_strict_takes_what_it_can():
    model = Layers()
    model.strict_loading = False
    check_weights(model, stored(num_layers=1))


def test_weights_alone_are_tested_but_not_continued():
    whole()
    with pytest.raises(UserError, match="holds weights only: it can be tested, but training cannot go on from it"):
        read(FILE, to_continue=True)


def content(value: float = 1.0) -> dict:
    return {"state_dict": {"weight": torch.full((100_000,), value)}, "pytorch-lightning_version": "2.6.6"}


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it():
    for value in (1.0, 2.0):
        Durable().save_checkpoint(content(value), Path("folder/last.ckpt"))
    assert read("folder/last.ckpt")["state_dict"]["weight"][0] == 2
    assert [file.name for file in Path("folder").iterdir()] == ["last.ckpt"]


def test_what_a_killed_process_left_is_gone_after_the_next_save():
    Path("last.ckpt.part").write_text("half a file")
    Durable().save_checkpoint(content(), "last.ckpt")
    assert not Path("last.ckpt.part").exists()


@pytest.mark.parametrize("room", [0, 1000, 200_000, 399_999])
def test_where_the_disk_is_full_the_older_file_stays(room):
    durable = Durable()
    durable.save_checkpoint(content(1.0), "last.ckpt")
    before, limits = Path("last.ckpt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.warns(UserWarning, match=r"last\.ckpt NOT saved: File too large; training goes on"):
            durable.save_checkpoint(content(2.0), "last.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path("last.ckpt").read_bytes() == before
    assert not Path("last.ckpt.part").exists()
    assert durable.failed == "File too large"
    durable.save_checkpoint(content(2.0), "last.ckpt")
    assert not durable.failed
    assert read("last.ckpt")["state_dict"]["weight"][0] == 2


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(number):
    with pytest.warns(UserWarning, match="NOT saved: weights are not finite"):
        Durable().save_checkpoint(content(number), "last.ckpt")
    assert not Path("last.ckpt").exists()


def test_a_fault_of_the_code_keeps_its_traceback():
    with pytest.raises((AttributeError, TypeError, RuntimeError), match="pickle"):
        Durable().save_checkpoint(content() | {"hook": lambda: 0}, "last.ckpt")


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/last.ckpt", "https://example.org/last.ckpt"])
def test_no_checkpoint_is_fetched_from_a_network(path):
    with pytest.raises(UserError, match="does not exist"):
        Durable().load_checkpoint(path)


def test_of_several_files_the_first_whole_one_is_taken_and_the_others_are_named():
    whole()
    Path("last.ckpt").write_bytes(FILE.read_bytes()[:500])
    with pytest.warns(UserWarning, match=r"^checkpoint last\.ckpt is damaged .*; taking best\.ckpt instead$"):
        path, stored = first_whole(["last.ckpt", FILE])
    assert (path, stored["epoch"]) == ("best.ckpt", 3)
    FILE.unlink()
    with pytest.warns(UserWarning, match="last"), pytest.raises(UserError, match=r"best\.ckpt does not exist"):
        first_whole(["last.ckpt", FILE])


class Stored(LightningModule):
    def __init__(self, **settings):
        super().__init__()
        self.save_hyperparameters(settings)


def test_what_no_load_would_take_is_not_saved():
    file = Path("last.ckpt")
    assert write(content(), file) == ""
    with pytest.raises(UserError, match=r"would hold pathlib\.PosixPath, but only tensors and plain values"):
        write(content() | {"own": [Path("pictures")]}, file)
    assert read(file)["state_dict"]["weight"].equal(content()["state_dict"]["weight"])
    assert [path.name for path in Path().glob("last*")] == ["last.ckpt"]


@pytest.mark.parametrize("value", [Path("pictures"), timedelta(1), lambda: 0], ids=lambda v: type(v).__name__)
def test_hyper_parameters_that_are_not_plain_are_refused_by_name(value):
    check_hyper_parameters(Stored(lr=0.1, sizes=[1, 2], names={"a": None}, weight=torch.ones(2)))
    with pytest.raises(UserError, match=f"Stored: folder is a {type(value).__name__}, .*ignore=\\['folder'\\]"):
        check_hyper_parameters(Stored(lr=0.1, folder=value))
