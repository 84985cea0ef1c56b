"""Storage: a journal, a real PostgreSQL and a gRPC proxy hold the same trials."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from src import UserError
from src.cli import main
from src.commands.studies.plan import Plan
from src.commands.studies.record import Study
from src.commands.studies.sampling import suggest
from src.commands.studies.storage import JournalLock, Storage
from tests.conftest import ROOT, SMALL, needs_posix, refused

SPACE = {"lr": {"from": 0.01, "to": 1.0, "log": True}, "net": ["a", "b"], "width": {"from": 1, "to": 8}}
SEARCH = ["search", *SMALL, "--trainer.max_epochs=1", "--search.sampler=random", "--search.trials=2"]
SEARCH += ["--search.space={model.optimizer.lr: {from: 0.001, to: 0.1, log: true}}"]
CONTENT = {"mode": "max", "monitor": "val/accuracy", "folds": 1}


@pytest.fixture(autouse=True)
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start PostgreSQL on a free port of this machine, as an ordinary user, and return its URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL: apt install postgresql")
    folder = tmp_path_factory.mktemp("postgres")
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if user:
        for parent in (folder, *folder.parents[:3]):
            parent.chmod(0o711)
        shutil.chown(folder, 65534, 65534)
    binaries, data, port = found[-1].parent, folder / "data", free_port()
    quiet = {"stdout": subprocess.DEVNULL, "check": True, "cwd": folder}
    initdb = [binaries / "initdb", "-D", data, "-U", "study", "--auth=trust", "--no-sync"]
    subprocess.run([*user, *initdb], **quiet)  # type: ignore[call-overload]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    control = [*user, binaries / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], **quiet)  # type: ignore[call-overload]
    yield f"postgresql://study@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def proxy(postgres: str) -> Iterator[str]:
    port = free_port()
    code = "import optuna, sys; s = optuna.storages.RDBStorage(sys.argv[1])\n"
    code += "optuna.storages.run_grpc_proxy_server(s, host='127.0.0.1', port=int(sys.argv[2]))"
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, postgres, str(port)]) as server:
        try:
            wait_for(port)
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.kill()


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not start")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def study(folder: str, url: str | None = None, **settings: object) -> Study:
    plan = Plan(space=dict(SPACE), **{"trials": 9, "sampler": "random"} | settings)  # type: ignore[arg-type]
    new = Study(Path(folder), plan, url)
    new.create(CONTENT)
    return new


def draws(storage: Storage, count: int) -> list[dict[str, object]]:
    found = []
    for _ in range(count):
        number = storage.ask()
        found.append(suggest(storage.plan.space, storage.trial(number)))
        storage.tell(number, "complete", float(number))
    return found


def test_workers_of_one_study_draw_different_points_and_a_restart_the_same() -> None:
    one, two = Storage(study("a")), Storage(study("a"))
    alternating = [*draws(one, 1), *draws(two, 1), *draws(one, 1), *draws(two, 1)]
    assert len({str(point) for point in alternating}) == 4
    assert draws(Storage(study("b")), 4) == alternating
    assert all(0.01 <= point["lr"] <= 1 and point["width"] in range(1, 9) for point in alternating)  # type: ignore[operator]


def test_an_interrupted_trial_keeps_its_settings() -> None:
    storage = Storage(study("a"))
    number = storage.ask()
    settings = suggest(storage.plan.space, storage.trial(number))
    again = Storage(study("a"))
    assert suggest(again.plan.space, again.trial(number)) == settings
    again.tell(number, "complete", 1.0)
    storage.tell(number, "complete", 2.0)  # by the first worker, too late
    assert again.stored(number).value == 1.0


def test_grid_points_are_each_tried_once() -> None:
    grid = Study(
        Path("grid"), Plan(space={"a": [1, None, [2]], "b": {"from": 0, "to": 1, "step": 0.5}}, sampler="grid")
    )
    grid.create(CONTENT)
    points = draws(Storage(grid), 9)
    assert {str(point) for point in points} == {str({"a": a, "b": b}) for a in (1, None, [2]) for b in (0.0, 0.5, 1.0)}


@needs_posix
def test_the_journal_is_locked_where_files_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("src.commands.studies.storage.lock", refuse)
    Path("study.log").write_text('{"a": 1}\n{"b"', encoding="utf-8")
    lock = JournalLock("study.log")
    lock.acquire()
    assert Path("study.log.lock").is_symlink()
    lock.release()
    assert not Path("study.log.lock").is_symlink()
    assert Path("study.log").read_text(encoding="utf-8") == '{"a": 1}\n'


def test_a_damaged_journal_is_one_line() -> None:
    draws(Storage(study("a")), 1)
    lines = Path("a/study.log").read_bytes().splitlines(keepends=True)
    Path("a/study.log").write_bytes(b"".join([*lines[:2], b"damaged\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"cannot use the storage a/study\.log"):
        Storage(study("a"))


@pytest.mark.heavy
def test_a_database_holds_the_trials_that_a_journal_holds(postgres: str) -> None:
    with closing(Storage(study("a", postgres))) as storage:
        assert draws(storage, 3) == draws(Storage(study("journal")), 3)
    with pytest.raises(UserError, match="has a study a of another folder"):
        Storage(study("elsewhere/a", postgres))


@pytest.mark.heavy
@pytest.mark.parametrize("server", ["postgres", "proxy"])
def test_two_workers_share_a_database(server: str, request: pytest.FixtureRequest) -> None:
    main([*SEARCH, "--workers=0", "--name=alone"])
    done = command(f"--storage={request.getfixturevalue(server)}", f"--name={server}", "--workers=2")
    assert "2 complete" in done.stdout
    values = [Study(Path("runs/search", name), Plan(trials=2)).records() for name in ("alone", server)]
    assert [each.values() for each in values[0]] == [each.values() for each in values[1]]


def command(*args: str) -> "subprocess.CompletedProcess[str]":
    """Search in a process of its own: gRPC has threads, after which this one could not fork."""
    line = [sys.executable, "-m", "src.cli", *SEARCH, *args, f"--trainer.default_root_dir={Path('runs').absolute()}"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_database_that_cannot_be_reached_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"postgresql://study:secret@127.0.0.1:{free_port()}/x"
    error = refused(capsys, *SEARCH, "--workers=0", f"--storage={url}")
    assert f"cannot use the storage {url.replace(':secret', '')}" in error


@pytest.mark.heavy
def test_a_proxy_that_cannot_be_reached_is_one_line() -> None:
    url = f"grpc://127.0.0.1:{free_port()}"
    done = command(f"--storage={url}", "--workers=0")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"cannot use the storage {url}" in done.stderr
