"""The command serve: what it refuses, versions that it switches, and a server without torch."""

import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from src.cli import main
from src.commands import serve
from src.commands.serving.settings import Settings
from src.runs.exports import Models
from tests.conftest import PATH, refused
from tests.served import FOLDER, ask, picture, publish, running

KEY = "0123456789abcdef"
WITHOUT = """
import sys
HEAVY = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "sklearn", "matplotlib", "scipy")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ImportError(f"{name} is imported")
sys.meta_path.insert(0, Refuse())
sys.argv = ["src.cli", "serve", "models/digits", "--port=0", "--drain=0", "--records=kept"]
from src.cli import main
main(owns_process=True)
print("loaded", *sys.modules, file=sys.stderr)
"""


def test_a_server_answers_without_torch_and_stops_with_0():
    publish()
    environment = os.environ | PATH
    command = [sys.executable, "-c", WITHOUT]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as server:
        line = server.stderr.readline()
        assert line.startswith("digits, version 1, a Classifier, on http://127.0.0.1:"), line + server.stderr.read()
        port = int(re.search(r":(\d+)$", line)[1])
        assert server.stderr.readline() == f"  curl --data-binary @picture.png http://127.0.0.1:{port}/predict\n"
        assert json.loads(ask(port, picture())[1])["prediction"] in "0123456789"
        for path in ("/", "/metrics", "/openapi.json", "/v2/models/digits"):
            assert ask(port, path=path, method="GET")[0] == 200
        assert ask(port, b"no picture")[0] == 415
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "onnxruntime" in err.split()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [each["status"] for each in lines] == [200] * 5 + [415]


def test_versions_are_switched_by_one_command(capsys):
    for seed in range(3):
        publish(seed=seed)
    main(["serve", str(FOLDER), "--rollback"])
    assert capsys.readouterr().out == "version 2 is now the current one of models/digits; version 3 is rejected\n"
    main(["serve", str(FOLDER), "--use=3"])
    note = "it was rejected before: rolled back to version 2"
    assert capsys.readouterr().out == f"version 3 is now the current one of models/digits; {note}\n"
    main(["serve", "--models", str(FOLDER), "--use=1"])
    assert Models(FOLDER).candidate == 3
    main(["serve", str(FOLDER), "--reject=3"])
    out = capsys.readouterr().out.splitlines()[-1]
    assert out == "version 3 of models/digits is rejected; the current one is 1"
    assert (Models(FOLDER).current, Models(FOLDER).candidate) == (1, None)
    assert "version 1 is the current one" in refused(capsys, "serve", str(FOLDER), "--reject=1")
    for option in ("--use=7", "--reject=7"):
        assert "has no version 7, only 1, 2, 3" in refused(capsys, "serve", str(FOLDER), option)
    for other in ("--rollback", "--reject=2"):
        assert "type one of them" in refused(capsys, "serve", str(FOLDER), "--use=1", other)


@pytest.mark.parametrize("option", ["--rollback", "--port=0"])
def test_a_damaged_file_of_the_current_version_is_named(option, capsys):
    publish()
    (FOLDER / "CURRENT").write_text("abc", encoding="utf-8")
    assert "models/digits/CURRENT is damaged, it must hold" in refused(capsys, "serve", str(FOLDER), option)


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ([], "serve needs a folder of exported versions"),
        (["absent"], "absent is no folder of exported versions"),
        ([str(FOLDER), "other"], "serve takes one folder of models, got 2"),
        ([str(FOLDER), "--trainer.max_epochs=1"], "serve takes a folder of models and its own options, not --trainer"),
        ([str(FOLDER), "--trust"], "serve takes a folder of models and its own options, not --trust"),
        ([str(FOLDER), "--port=70000"], "--port must be from 0 to 65,535, got 70000"),
        ([str(FOLDER), "--canary=1.5"], "--canary must be from 0 to 1, got 1.5"),
        ([str(FOLDER), "--canary=nan"], "--canary must be from 0 to 1, got nan"),
        ([str(FOLDER), "--workers=0"], "--workers must be from 1 to 256, got 0"),
        ([str(FOLDER), "--keep_images"], "--keep_images needs --records DIR"),
        ([str(FOLDER), "--host=0.0.0.0", "--port=0"], "others can reach 0.0.0.0: give clients a key"),
        ([str(FOLDER), "--host=::", "--port=0"], "others can reach ::: give clients a key"),
        ([str(FOLDER), "--host=not.a.host.invalid"], "cannot listen on not.a.host.invalid, port 8000: "),
        ([str(FOLDER), "--key=absent"], "--key absent cannot be read: No such file or directory"),
        ([str(FOLDER), "--key=short"], "a key must have at least 16 characters, all ASCII"),
        ([str(FOLDER), "--key=empty"], "--key empty holds no key: write one in each line"),
        ([str(FOLDER), "--key=binary"], "--key binary cannot be read: it is no text"),
        ([str(FOLDER), "--certificate=short"], "HTTPS needs both --certificate and --private_key"),
        ([str(FOLDER), "--certificate=short", "--private_key=absent"], "are no PEM certificate and its key"),
        ([str(FOLDER), "--records=short"], "cannot write records to "),
    ],
    ids=lambda each: " ".join(each)[:40] if isinstance(each, list) else None,
)
def test_what_cannot_be_served_is_refused_in_one_line(typed, error, capsys):
    publish()
    Path("short").write_text("key\n", encoding="utf-8")
    Path("empty").write_text("\n", encoding="utf-8")
    Path("binary").write_bytes(b"\xff\xfe")
    assert error in refused(capsys, "serve", *typed)


@pytest.mark.parametrize("change", ["model.onnx", "SHA256SUMS", "CURRENT"])
def test_damaged_versions_are_refused_in_one_line(change, capsys):
    publish()
    file = FOLDER / change if change == "CURRENT" else FOLDER / "1" / change
    file.write_bytes(b"7" if change == "CURRENT" else b"damaged")
    reasons = {"model.onnx": "is damaged: its SHA-256", "SHA256SUMS": "is not listed in", "CURRENT": "has no version 7"}
    assert reasons[change] in refused(capsys, "serve", str(FOLDER), "--port=0")


def test_a_port_in_use_is_refused(capsys):
    publish()
    with serve.listen("127.0.0.1", 0, secured=False) as listener:
        port = listener.getsockname()[1]
        assert f"port {port}: Address already in use" in refused(capsys, "serve", str(FOLDER), f"--port={port}")


def test_only_a_key_opens_other_addresses_than_loopback():
    for host, secured in (("localhost", False), ("127.0.0.2", False), ("0.0.0.0", True)):
        serve.listen(host, 0, secured).close()


def test_keys_come_from_a_file_or_a_variable(monkeypatch):
    Path("keys").write_text(f"{KEY}\n\n  another key of length  \n", encoding="utf-8")
    settings = Settings(FOLDER, keys=serve.read_keys(Path("keys")))
    assert [settings.admits(key) for key in (KEY, "another key of length", "", KEY[:-1], "é")] == [
        True,
        True,
        *[False] * 3,
    ]
    assert serve.read_keys(None) == ()
    monkeypatch.setenv("SERVE_KEY", KEY)
    assert serve.read_keys(None) == serve.read_keys(Path("keys"))[:1]


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_https_by_a_certificate_and_its_key():
    files = ["-keyout", "key.pem", "-out", "certificate.pem", "-subj", "/CN=localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files]
    subprocess.run(command, check=True, capture_output=True)
    publish()
    certificate, key = Path("certificate.pem"), Path("key.pem")
    serve.check_certificate(certificate, key)
    with running(certificate=certificate, private_key=key) as (_, port):
        trusted = ssl.create_default_context(cafile=certificate)
        trusted.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusted)
        connection.request("POST", "/predict", picture())
        assert connection.getresponse().status == 200
        connection.close()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            ask(port, picture())


def test_the_help_explains_the_options(capsys):
    main(["serve", "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: python -m src.cli serve MODELS ")
    assert "canary: the share of requests" in out
    assert max(map(len, out.splitlines())) <= 80
