"""A mistake of the user's is answered in one line with exit code 2, before anything is trained or written."""

import shutil
from pathlib import Path

import pytest
import torch

from scripts.bad_inputs import COMMANDS, FILES, SETTINGS, commands
from src.cli import main

DIGITS = ["fit", "--config", "configs/digits.yaml"]


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert len(err) < 500
    assert "Traceback" not in out + err
    assert "usage:" not in out + err
    return err


@pytest.mark.parametrize("name", [*SETTINGS, *FILES, *COMMANDS])
def test_a_mistake_is_named(capsys: pytest.CaptureFixture[str], name: str) -> None:
    if name == "contradiction" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    typed, told = commands(Path())[name]
    assert told in refused(capsys, *typed)
    assert not list(Path().glob("runs/*/*"))


def test_absent_data_without_network_tells_what_to_put_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.data import MNIST

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(MNIST, "source", unreachable)
    unreachable.__name__ = "MNIST"
    told = refused(capsys, "fit", "--config", "configs/mnist.yaml", "--data.root=nowhere")
    assert str(Path("nowhere").absolute()) in told
    assert "MNIST/raw" in told
    assert "configs/digits.yaml" in told
    assert not list(Path().glob("runs/*/*"))


def test_a_class_folder_without_images_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures/train/cat").mkdir(parents=True)
    told = refused(capsys, *DIGITS, "--data=src.data.ImageFolder", "--data.root=pictures")
    assert "class folder pictures/train/cat has no images" in told


def test_an_image_that_cannot_be_decoded_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures/train/cat").mkdir(parents=True)
    Path("pictures/train/cat/1.png").write_text("no picture")
    told = refused(capsys, *DIGITS, "--data=src.data.ImageFolder", "--data.root=pictures")
    assert "cannot decode pictures/train/cat/1.png" in told
    assert "--data.on_bad_image=skip" in told


def test_an_error_while_another_is_handled_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from src.nets import SmallCNN

    def broken(*_: object) -> None:
        try:
            torch.optim.SGD([torch.zeros(1)], lr=-1)  # refused by a constructor, but that is not what goes wrong
        except ValueError:
            raise KeyError("a bug") from None

    monkeypatch.setattr(SmallCNN, "forward", broken)
    with pytest.raises(KeyError, match="a bug"):
        main([*DIGITS, "--trainer.fast_dev_run=1"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    config = Path(__file__).parents[1] / "configs/digits.yaml"
    main(["fit", "--config", str(config), "--trainer.max_epochs=1", f"--trainer.default_root_dir={folder}"])
    return folder / "digits/version_0"


def test_a_checkpoint_of_another_net_is_refused(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    told = refused(capsys, "test", "--run", str(trained), "--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]")
    assert "the checkpoint is of another net" in told
    assert "missing (net.1.weight, net.1.bias, net.4.weight, net.4.bias, net.7.weight, ...)" in told
    assert "unexpected (net.features.0.0.weight" in told
    told = refused(capsys, "fit", "--run", str(trained), "--model.net.width=8")
    assert "of another shape (net.features.0.0.weight (32, 1, 3, 3), now (8, 1, 3, 3)" in told


def test_a_run_folder_without_a_checkpoint_is_refused(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    Path("empty").mkdir()
    shutil.copy(trained / "config.yaml", "empty")
    assert "empty has no checkpoint" in refused(capsys, "test", "--run", "empty")


def damage(file: Path) -> bytes:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return bytes(content)


@pytest.mark.filterwarnings("default")
def test_an_older_checkpoint_takes_the_place_of_a_damaged_one_or_none(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    shutil.copytree(trained, "damaged")
    file, other = (Path(f"damaged/checkpoints/{name}.ckpt") for name in ("best", "last"))
    content = damage(file)
    main(["test", "--run", "damaged"])
    out, err = capsys.readouterr()
    assert f"{file} is damaged" in err
    assert err.endswith(f"; taking {other} instead\n")
    assert str(other) in out
    assert file.read_bytes() == content
    other.unlink()
    assert "damaged/checkpoints/best.ckpt is damaged" in refused(capsys, "test", "--run", "damaged")


def test_a_folder_where_no_run_can_be_written_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").write_text("a file where a folder should be")
    assert "cannot make a run folder" in refused(capsys, *DIGITS)


def test_another_validation_fold_is_refused_for_a_trained_run(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    assert "trained on another split" in refused(
        capsys, "fit", "--run", str(trained), "--data.fold=3", "--trainer.max_epochs=2"
    )


def test_images_that_are_not_there_are_refused(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    assert "--images absent.png does not exist" in refused(
        capsys, "predict", "--run", str(trained), "--images", "absent.png"
    )
    Path("none").mkdir()
    assert "no image files there" in refused(capsys, "predict", "--run", str(trained), "--images", "none")


def test_an_error_in_the_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from src.nets import SmallCNN

    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(SmallCNN, "forward", broken)
    with pytest.raises(ValueError, match="a bug"):
        main([*DIGITS, "--trainer.fast_dev_run=1"])
