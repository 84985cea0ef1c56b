"""The user's error is one line with exit code 2, before anything is trained or written; a bug keeps its traceback."""

import errno
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from src import UserError
from src.cli import main
from src.config.errors import as_user_error, exit_code
from src.data import MNIST
from src.nets import SmallCNN
from tests.bad_inputs import COMMANDS, FILES, commands
from tests.bad_settings import SETTINGS
from tests.conftest import SMALL, refused

DIGITS = ["fit", "--config", "configs/digits.yaml"]


def write_image(content: bytes | None) -> list[str]:
    """Write a class folder with one image file, or none; return the settings that name it."""
    Path("images/train/cat").mkdir(parents=True)
    if content is not None:
        Path("images/train/cat/1.png").write_bytes(content)
    return ["--data=src.data.ImageFolder", "--data.root=images"]


@pytest.mark.parametrize("name", [*SETTINGS, *FILES, *COMMANDS])
def test_invalid_input_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    if name == "contradiction" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    args, message = commands(Path())[name]
    assert message in refused(capsys, *args)
    assert not list(Path().glob("runs/*/*"))


def test_missing_data_without_network_says_what_to_put_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    unreachable.__name__ = "MNIST"
    monkeypatch.setattr(MNIST, "dataset", unreachable)
    error = refused(capsys, "fit", "--config", "configs/mnist.yaml", "--data.root=nowhere")
    assert str(Path("nowhere").absolute()) in error
    assert "MNIST/raw" in error
    assert "configs/digits.yaml" in error
    assert not list(Path().glob("runs/*/*"))


def test_a_class_folder_without_images_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "class folder images/train/cat has no images" in refused(capsys, *DIGITS, *write_image(None))


def test_an_image_that_cannot_be_decoded_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *DIGITS, *write_image(b"no image"))
    assert "cannot decode images/train/cat/1.png" in error
    assert "--data.on_bad_image=skip" in error


def test_a_checkpoint_of_another_net_is_refused(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    error = refused(capsys, "test", "--run", str(trained), "--model.net=src.nets.SmallCNN")
    assert "the checkpoint does not match this net: " in error
    assert "missing keys (net.features.0.0.weight, " in error
    assert ", ...); 4 unexpected keys (net.1.weight, net.1.bias, net.4.weight, net.4.bias)" in error
    error = refused(capsys, "fit", "--run", str(trained), "--model.net.hidden_sizes=[8]")
    assert "3 differently shaped keys (net.1.weight (16, 64), now (8, 64), " in error


def test_a_run_folder_without_a_checkpoint_is_refused(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    Path("empty").mkdir()
    shutil.copy(trained / "config.yaml", "empty")
    assert "empty has no checkpoint" in refused(capsys, "test", "--run", "empty")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loops", {}, "does not tell how many epochs are done"),
        ("optimizer_states", [{"a": 1}], "does not match this run (KeyError: 'param_groups')"),
        ("lr_schedulers", [7], "does not match this run (AttributeError"),
        ("state_dict", [1], "is damaged: state_dict is of another type"),
        ("global_step", "x", "is damaged: global_step is of another type"),
        ("pytorch-lightning_version", 5, "is damaged: pytorch-lightning_version is of another type"),
        ("callbacks", [1], "is damaged: callbacks is of another type"),
    ],
)
def test_a_checkpoint_of_other_content_is_refused(
    capsys: pytest.CaptureFixture[str], trained: Path, key: str, value: object, message: str
) -> None:
    file = trained / "checkpoints/last.ckpt"
    torch.save(torch.load(file, weights_only=True) | {key: value}, file)
    (trained / "checkpoints/best.ckpt").unlink()
    assert message in refused(capsys, "fit", f"--run={trained}", "--trainer.max_epochs=2")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", b"[1]"),
        ("results.json", b'{"samples_per_second": "x"}'),
        ("provenance.json", b'{"a": 1}'),
        ("provenance.json", b'["a"]'),
        ("metrics.csv", b"a,b\n1,2\n"),
        ("metrics.csv", b"step,b\n1,2,3,4\n"),
        ("metrics.csv", b"\xff\xfe\x00step"),
    ],
)
def test_a_run_resumes_beside_records_of_other_content(trained: Path, name: str, content: bytes) -> None:
    (trained / name).write_bytes(content)
    assert main(["fit", "--config=configs/digits.yaml", "--resume=auto", "--trainer.max_epochs=2"]).run.path == trained
    main(["fit", *SMALL, "--trainer.max_epochs=1"])  # the next version compares itself with the one before
    kept = {file.read_bytes() for file in trained.glob("*") if file.is_file()}
    assert content in kept or name == "metrics.csv" or content == b'["a"]'  # these rows stay in the list


def test_a_plateau_schedule_waits_for_the_next_validation() -> None:
    plateau = ["--model.schedule=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.warmup_steps=0"]
    x = main(["fit", *SMALL, *plateau, "--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=4"])
    assert x.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 2


@pytest.mark.filterwarnings("default")
def test_an_older_checkpoint_replaces_a_damaged_one(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    best, last = (trained / f"checkpoints/{name}.ckpt" for name in ("best", "last"))
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.write_bytes(content)
    main(["test", "--run", str(trained)], owns_process=True)
    out, err = capsys.readouterr()
    assert err.startswith(f"warning: checkpoint {best} is damaged")
    assert err.endswith(f"; using {last} instead\n")
    assert str(last) in out
    assert best.read_bytes() == content
    last.unlink()
    assert f"{best} is damaged" in refused(capsys, "test", "--run", str(trained))


def test_a_folder_in_which_no_run_can_be_created_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").write_text("a file instead of a folder", encoding="utf-8")
    assert "cannot create a run folder in " in refused(capsys, *DIGITS)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("as it is"), "as it is"),
        (MisconfigurationException("two\n  lines"), "two lines"),
        (MemoryError(), "out of memory: use a smaller --data.batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "Existing checkpoints are intact."),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "cannot write a/b: No space left on device"),
        (ImportError("Requirement 'mlflow>=1.0' not met"), None),
        (ValueError("Requirement 'mlflow>=1.0' not met"), "mlflow is not installed: run make extras"),
        (OSError(errno.ENOENT, "No such file or directory", "a/b"), None),
        (ValueError("a bug"), None),
        (KeyError("a bug"), None),
    ],
    ids=str,
)
def test_an_exception_becomes_a_user_error_unless_it_is_a_bug(error: Exception, message: str | None) -> None:
    converted = as_user_error(error)
    assert (converted is None) == (message is None)
    assert message is None or message in str(converted)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(SmallCNN, "forward", broken)
    with pytest.raises(ValueError, match="a bug"):
        main([*DIGITS, "--trainer.fast_dev_run=1"])


def test_a_bug_while_another_error_is_handled_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        try:
            torch.optim.SGD([torch.zeros(1)], lr=-1)  # refused by a constructor, but that is not what is wrong
        except ValueError:
            raise KeyError("a bug") from None

    monkeypatch.setattr(SmallCNN, "forward", broken)
    with pytest.raises(KeyError, match="a bug"):
        main([*DIGITS, "--trainer.fast_dev_run=1"])


def test_a_lost_connection_in_a_single_process_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("src.engine.launched.PROCESSES", [])
    error = RuntimeError("Connection reset by peer")
    assert exit_code(error) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert exit_code(error) == 2
