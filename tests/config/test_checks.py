"""No config, checkpoint or address runs code that nobody asked for."""

import http.server
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from src import UserError
from src.cli import main
from src.config.arguments import read
from src.config.parser import parse
from tests.bad_inputs import DOORS, PASSED, build
from tests.conftest import FIT, ROOT, needs_posix, refused

EVIL = "from pathlib import Path\nPath('ran').touch()\nfrom src.nets import MLP as Net\n"
RAN = Path("ran")
DIGITS = ["--config=configs/digits.yaml"]


@pytest.fixture(autouse=True)
def _evil_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a module that creates a file when it is imported."""
    Path("evil.py").write_text(EVIL, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.syspath_prepend(str(Path.cwd()))


@pytest.mark.parametrize("door", DOORS)
def test_a_config_that_runs_code_or_writes_elsewhere_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    Path("door").mkdir()
    monkeypatch.chdir("door")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    config = build(door, Path())
    files = {path for path in Path().rglob("*") if "__pycache__" not in path.parts}
    error = refused(capsys, "fit", "--config=../configs/digits.yaml", f"--config={config}")
    assert ("--trust" in error) == (door not in ("tag", "file that names itself"))
    assert {path for path in Path().rglob("*") if "__pycache__" not in path.parts} == files
    assert "evil" not in sys.modules


@pytest.mark.parametrize("content", PASSED)
def test_a_value_that_only_looks_like_code_needs_no_trust(content: str) -> None:
    Path("own.yaml").write_text(content, encoding="utf-8")
    options = read(["fit", *DIGITS, "--config=own.yaml"])[0]
    assert parse(options)
    assert not options.needs_trust


NET = """
from torch import nn
def tiny(pretrained: bool = False, **kwargs) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, kwargs["num_classes"]))
"""


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a small package with the layout of timm in its place."""
    files = {
        "__init__": "",
        "models/__init__": "from timm.models._factory import create_model\nfrom timm.models.net import tiny\n",
        "models/_factory": NET.replace("tiny", "create_model"),
        "models/net": NET,
        "data/__init__": "from torch.utils.data import Dataset\nclass Files(Dataset):\n    pass\n",
    }
    for file, text in files.items():
        path = Path(f"stub/timm/{file}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend("stub")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        del sys.modules[name]


@pytest.mark.parametrize("net", ["timm.models.tiny", "{class_path: timm.models.tiny, dict_kwargs: {in_chans: 1}}"])
@pytest.mark.usefixtures("timm")
def test_nets_of_timm_are_trusted(net: str) -> None:
    Path("own.yaml").write_text(f"model: {{init_args: {{net: {net}}}}}", encoding="utf-8")
    options = read(["fit", *DIGITS, "--config=own.yaml"])[0]
    assert parse(options)
    assert not options.needs_trust


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("timm.models.create_model", "is none of what configs may name"),
        ("timm.data.Files", "is none of what configs may name"),
        ("{class_path: timm.models.tiny, dict_kwargs: {cache_dir: kept}}", "must be a number, true or false"),
        ("{class_path: timm.models.tiny, dict_kwargs: {pretrained_cfg: {file: x}}}", "must be a number, true or false"),
    ],
)
@pytest.mark.usefixtures("timm")
def test_what_timm_can_read_is_not_trusted(net: str, message: str) -> None:
    Path("own.yaml").write_text(f"model: {{init_args: {{net: {net}}}}}", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        parse(read(["fit", *DIGITS, "--config=own.yaml"])[0])


def test_what_is_typed_is_trusted_and_the_run_needs_trust_then(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("best: {dirpath: kept}", encoding="utf-8")
    assert "best.dirpath must not leave the run folder" in refused(capsys, "fit", *DIGITS, "--config=own.yaml")
    for typed in ("--best.dirpath=kept", "--model.net=evil.Net"):
        options = read(["fit", *DIGITS, typed])[0]
        parse(options)
        assert options.needs_trust
    options = read(["fit", *DIGITS])[0]
    parse(options)
    assert not options.needs_trust


@pytest.mark.parametrize("name", ["given.yaml", "~/given.yaml", "file://{}/given.yaml"])
def test_a_file_that_a_setting_names_is_not_trusted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    Path("given.yaml").write_text("class_path: evil.Net", encoding="utf-8")
    name = name.format(Path.cwd())
    Path("own.yaml").write_text(f"model: {name}", encoding="utf-8")
    for setting in (f"--model={name}", "--config=own.yaml"):
        assert "evil.Net is code outside" in refused(capsys, "fit", *DIGITS, setting)
    assert not RAN.exists()


def test_the_config_of_a_run_folder_is_not_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("given/checkpoints").mkdir(parents=True)
    Path("given/config.yaml").write_text("model: {class_path: evil.Net}", encoding="utf-8")
    for command in ("fit", "test", "validate", "predict"):
        assert "given/config.yaml, line 1: evil.Net is code outside src" in refused(capsys, command, "--run=given")
    assert not RAN.exists()


@needs_posix
def test_a_link_out_of_a_run_folder_needs_trust(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    run = f"--run={trained}"
    (trained / "inside").symlink_to("config.yaml")
    main(["validate", run])
    Path("secret").write_text("kept", encoding="utf-8")
    (trained / "results.part").symlink_to(Path("secret").absolute())
    for command in ("fit", "test", "validate", "predict"):
        error = refused(capsys, command, run)
        assert error == f"error: {trained}/results.part is a link out of the run folder; if you trust it, add --trust\n"
    assert Path("secret").read_text(encoding="utf-8") == "kept"
    main(["validate", run, "--trust"])


def test_a_home_folder_of_runs_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    x = main([*FIT, "--trainer.default_root_dir=~/kept", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"])
    assert x.run.path == Path("home/kept/digits/version_0").absolute()
    assert not Path("~").exists()
    assert main([*FIT, "--resume=auto", "--trainer.default_root_dir=~/kept"]).run.path == x.run.path


def test_a_trusted_config_may_name_any_code(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text(
        "model: {class_path: src.tasks.Classifier, init_args: {net: {class_path: evil.Net}}}", encoding="utf-8"
    )
    own = ["--config=own.yaml", "--trust", "--trainer.max_epochs=zero"]
    assert "--trust" not in refused(capsys, "fit", *DIGITS, *own)
    assert RAN.exists()


@pytest.mark.parametrize("config", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_project_is_trusted(config: Path) -> None:
    for package in ("mlflow", "wandb", "timm"):
        if config.stem == package or f"{package}." in config.read_text(encoding="utf-8"):
            pytest.importorskip(package)
    command = "search" if config.parent.name == "search" else "fit"
    options = read([command, *DIGITS, f"--config={config}"])[0]
    assert parse(options)
    assert not options.needs_trust


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def write_evil_checkpoint() -> None:
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.6", "loops": {}, "optimizer_states": []}
    torch.save(content | {"hyper_parameters": Payload()}, "evil.ckpt")


@pytest.mark.parametrize("command", ["fit", "test", "validate", "predict"])
def test_a_pickle_in_a_checkpoint_is_not_run(capsys: pytest.CaptureFixture[str], command: str) -> None:
    write_evil_checkpoint()
    error = refused(capsys, command, *DIGITS, "--ckpt_path=evil.ckpt")
    assert "holds more than tensors and plain values" in error
    assert not RAN.exists()


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without log messages."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a server of the working directory."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(SilentHandler, directory=str(Path.cwd()))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("command", ["fit", "test"])
def test_no_checkpoint_is_fetched_from_an_address(
    capsys: pytest.CaptureFixture[str], address: str, command: str
) -> None:
    write_evil_checkpoint()
    error = refused(capsys, command, *DIGITS, f"--ckpt_path={address}/evil.ckpt")
    assert "does not exist" in error
    assert not RAN.exists()


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize(
    "setting",
    ["--config={}/own.yaml", "--model={}/model.yaml", "--trainer={}/trainer.yaml", "--model.optimizer={}/model.yaml"],
)
def test_no_config_is_fetched_from_an_address(
    capsys: pytest.CaptureFixture[str], address: str, setting: str, scheme: str
) -> None:
    address = address if scheme == "http" else f"file://{Path.cwd()}"
    Path("own.yaml").write_text("model: {class_path: evil.Net}", encoding="utf-8")
    Path("model.yaml").write_text("class_path: evil.Net", encoding="utf-8")
    Path("trainer.yaml").write_text("max_epochs: 1\ncallbacks: [{class_path: evil.Net}]", encoding="utf-8")
    refused(capsys, "fit", *DIGITS, setting.format(address))
    assert not RAN.exists()


def test_a_class_that_a_checkpoint_names_is_not_imported(trained: Path) -> None:
    stored = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    stored["hyper_parameters"] = {"_class_path": "evil.Net", "_instantiator": "evil.Net", "lr": 1}
    for name in ("best", "last"):
        torch.save(stored, trained / f"checkpoints/{name}.ckpt")
    main(["test", f"--run={trained}"])
    assert not RAN.exists()
