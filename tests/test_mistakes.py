"""A mistake of the user's is answered in one line with exit code 2, before anything is trained or written."""

import shutil
from pathlib import Path

import pytest
import torch

from src.cli import main

DIGITS = ["fit", "--config", "configs/digits.yaml"]
MISTAKES = {
    "unknown key": (["--model.widht=3"], "unknown setting model.widht"),
    "unknown nested key": (["--model.net.widht=3"], "unknown setting model.net.widht, did you mean model.net.width?"),
    "unknown top-level key": (["--modle=3"], "unknown setting --modle=3, did you mean model?"),
    "abbreviated option": (["--trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
    "stray word": (["trainer.max_epochs=3"], "unexpected 'trainer.max_epochs=3'"),
    "wrong type": (["--trainer.max_epochs=many"], "trainer.max_epochs: must be int, got many"),
    "wrong nested type": (["--model.net.width=wide"], "model.net.width: must be int, got wide"),
    "misspelled class": (["--model.net=src.nets.SmalCNN"], "src.nets has no SmalCNN, did you mean src.nets.SmallCNN?"),
    "misspelled module": (["--model.net=src.net.SmallCNN"], "did you mean src.nets?"),
    "misspelled package": (["--data=scr.data.Digits"], "there is no module scr"),
    "misspelled optimizer": (["--model.optimizer=torch.optim.Adamm"], "did you mean torch.optim.Adam?"),
    "misspelled loss": (["--model.loss=torch.nn.CrossEntropyLos"], "did you mean torch.nn.CrossEntropyLoss?"),
    "class of another kind": (["--model=torch.nn.Linear"], "model: must be a class path of a LightningModule"),
    "bare word for a class": (["--trainer.callbacks=Foo"], "must be a class path such as src.nets.SmallCNN, got Foo"),
    "no accumulation": (
        ["--trainer.accumulate_grad_batches=0"],
        "trainer.accumulate_grad_batches must be more than 0, got 0",
    ),
    "no training": (["--trainer.limit_train_batches=0"], "trainer.limit_train_batches must be more than 0, got 0"),
    "never validated": (["--trainer.val_check_interval=0"], "trainer.val_check_interval must be more than 0, got 0"),
    "runs elsewhere": (["--name=../elsewhere"], "name must be that of a folder below runs/, got '../elsewhere'"),
    "absolute name": (["--name=/"], "name must be that of a folder below runs/, got '/'"),
    "mode of an initialisation": (
        ["--model.init=src.nets.Init", "--model.init.settings={mode: sideways}"],
        "init: kaiming_normal_ with {'mode': 'sideways'} fails",
    ),
    "unlogged metric": (
        ["--best.monitor=val/acc"],
        "best.monitor val/acc is not logged; choose of epoch, val/",
    ),
    "steps to leave out": (["--non_finite.most_in_a_row=0"], "most_in_a_row must be at least 1, got 0"),
    "memory": (["--model.on_out_of_memory=cry"], "model.on_out_of_memory: must be"),
    "batch size zero": (["--data.batch_size=0"], "batch_size must be at least 1, got 0"),
    "fold out of range": (["--data.fold=99"], "fold must be in [0, 10), got 99"),
    "one fold": (["--data.folds=1"], "folds must be at least 2, got 1"),
    "negative learning rate": (["--model.optimizer.lr=-1"], "Invalid learning rate: -1"),
    "fewer samples than one batch": (["--data.batch_size=5000"], "batch_size must be at most 1293"),
    "wrong number of classes": (
        ["--model.num_classes=7"],
        "num_classes must be 10, the classes of the data (0, 1, 2, 3",
    ),
    "net for other images": (["--model.net.in_channels=3"], "does not take the data's images, (C, H, W) = (1, 8, 8)"),
    "no such strategy": (["--trainer.strategy=foo"], "invalid strategy name"),
    "no number": (["--model.optimizer.lr=4e-3x"], "model.optimizer.lr: must be float, got 4e-3x"),
    "absent checkpoint": (["--ckpt_path=absent.ckpt"], "checkpoint absent.ckpt does not exist"),
    "null for a choice": (
        ["--model.tta=null"],
        "model.tta must be Literal['plain', 'mirror', 'mirror_shift'], got null",
    ),
    "null of a parent class": (["--data.batch_size=null"], "data.batch_size must be int, got null"),
    "null in a list": (
        ["--data.augment=[{class_path: src.data.RandomCrop, init_args: {padding: null}}]"],
        "data.augment.0.padding must be int, got null",
    ),
    "infinite number": (["--model.optimizer.lr=.inf"], "model.optimizer.lr must be a finite number, got inf"),
    "mix for augment": (["--data.augment=[src.data.MixUp]"], "data.augment: MixUp fails on images (2, 1, 8, 8)"),
    "augment for mix": (["--data.mix=src.data.RandomFlip"], "data.mix: RandomFlip fails on images (2, 1, 8, 8)"),
    "one draw for all": (
        ["--data.augment=[{class_path: torchvision.transforms.v2.RandomRotation, init_args: {degrees: 9}}]"],
        "data.augment: RandomRotation draws once a batch: wrap it in src.data.PerSample",
    ),
    "another shape": (["--data.augment=[torch.nn.Flatten]"], "must keep the shape (2, 1, 8, 8), got (1, 2, 64)"),
    "images that a net does not take in the first epoch": (
        [
            "--model.net=src.nets.MLP",
            "--model.net.image_shape=[1,8,8]",
            '--data.augment=[{"class_path": "src.data.ProgressiveResize", "init_args": {"sizes": [6]}}]',
        ],
        "the net does not take the data's images, (C, H, W) = (1, 6, 6)",
    ),
    "no loss": (["--model.loss=torch.nn.ReLU"], "the loss does not take logits (N, 10) and classes (N,)"),
    "loss of each sample": (
        ["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.reduction=none"],
        "the loss must be one number that depends on the logits, got (2,)",
    ),
    "contradiction": (["--trainer.accelerator=gpu"], "No supported gpu backend found"),
}


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


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_setting_is_named(capsys: pytest.CaptureFixture[str], name: str) -> None:
    if name == "contradiction" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    args, told = MISTAKES[name]
    assert told in refused(capsys, *DIGITS, *args)
    assert not list(Path().glob("runs/*/*"))


def test_a_wrong_setting_in_a_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text("model: {class_path: src.tasks.Classifier, init_args: {net: src.nets.SmalCNN}}\n")
    assert "did you mean src.nets.SmallCNN?" in refused(capsys, "fit", "--config", "bad.yaml")
    Path("bad.yaml").write_text("modle: {}\n")
    assert "unknown setting modle, did you mean model?" in refused(capsys, "fit", "--config", "bad.yaml")


def test_no_config_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "model is required; name a config with --config" in refused(capsys, "fit")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_judging_without_a_checkpoint_is_refused(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "needs a trained model" in refused(capsys, command, "--config", "configs/digits.yaml")


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
