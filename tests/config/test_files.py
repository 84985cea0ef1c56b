"""No config, checkpoint or address runs code that its reader did not ask for."""

import http.server
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from scripts.bad_inputs import DOORS, build
from src.cli import main
from src.trust import check_trusted

EVIL = "from pathlib import Path\nPath('ran').touch()\nfrom src.nets import MLP as Net\n"
RAN = Path("ran")


@pytest.fixture(autouse=True)
def _evil_module(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(Path.cwd()))


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert not out
    assert len(err.splitlines()) == 1
    assert not RAN.exists()
    return err


@pytest.mark.parametrize("door", DOORS)
def test_a_config_that_names_code_from_elsewhere_is_refused_before_it_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    Path("door").mkdir()
    monkeypatch.chdir("door")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    told = refused(capsys, "fit", f"--config={build(door, Path())}")
    assert any(name in told for name in ("bad.yaml", "other.", "beside.yaml"))
    assert ("--trust" in told) == (door != "tag")


def test_a_file_that_is_typed_is_no_more_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("given.yaml").write_text("class_path: evil.Net")
    assert "given.yaml, line 1: evil.Net is code" in refused(
        capsys, "fit", "--config=configs/digits.yaml", "--model=given.yaml"
    )


def test_the_config_of_a_run_folder_is_no_more_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("given/checkpoints").mkdir(parents=True)
    Path("given/config.yaml").write_text("model: {class_path: evil.Net}")
    for command in ("fit", "test", "validate", "predict"):
        assert "line 1: evil.Net is code outside src, scripts, torch" in refused(capsys, command, "--run=given")


def test_a_config_that_is_trusted_may_name_any_code(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("model: {class_path: src.tasks.Classifier, init_args: {net: {class_path: evil.Net}}}")
    with pytest.raises(SystemExit):
        main(["fit", "--config=configs/digits.yaml", "--config=own.yaml", "--trust", "--trainer.max_epochs=zero"])
    assert RAN.exists()
    assert "--trust" not in capsys.readouterr().err


@pytest.mark.parametrize("config", sorted(Path(__file__).parents[1].glob("configs/**/*.yaml")), ids=lambda p: p.stem)
def test_every_config_here_is_trusted(config: Path) -> None:
    check_trusted(config)


def test_names_and_paths_are_not_taken_for_code() -> None:
    Path("config.yaml").write_text("name: os.v2\nckpt_path: best.ckpt\ndata: {init_args: {root: my.pictures}}\n")
    check_trusted(Path("config.yaml"))


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def evil_checkpoint(file: Path) -> Path:
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.6", "loops": {}, "optimizer_states": []}
    torch.save(content | {"hyper_parameters": Payload()}, file)
    return file


@pytest.mark.parametrize("command", ["fit", "test", "validate", "predict"])
def test_a_pickle_in_a_checkpoint_is_not_run(capsys: pytest.CaptureFixture[str], command: str) -> None:
    evil_checkpoint(Path("evil.ckpt"))
    told = refused(capsys, command, "--config=configs/digits.yaml", "--ckpt_path=evil.ckpt")
    assert "holds more than tensors and plain values" in told


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the folder and says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(Path.cwd()))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("command", ["fit", "test"])
def test_no_checkpoint_is_fetched_from_an_address(
    capsys: pytest.CaptureFixture[str], address: str, command: str
) -> None:
    evil_checkpoint(Path("evil.ckpt"))
    told = refused(capsys, command, "--config=configs/digits.yaml", f"--ckpt_path={address}/evil.ckpt")
    assert "does not exist" in told


def test_a_class_that_a_checkpoint_names_is_not_imported(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config=configs/digits.yaml", "--trainer.max_epochs=1", "--model.net.width=4", "--test=false"])
    run = Path("runs/digits/version_0")
    stored = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    stored["hyper_parameters"] = {"_class_path": "evil.Net", "_instantiator": "evil.Net", "lr": 1}
    for name in ("best", "last"):
        torch.save(stored, run / f"checkpoints/{name}.ckpt")
    capsys.readouterr()
    main(["test", f"--run={run}"])
    assert not RAN.exists()
