"""Load the server, next to the floor and to servers written by hand, and attack it; print medians, ratios and counts.

python -m tools.serving [GROUP ...] [--repeats N] [--mnist FOLDER] [--json FILE]

Groups: speed, photo, changes, attacks, schema; by default all. `make check-serve` installs what they need. All of it
stays on this machine, and ends by itself. Stop other programs first.
"""

import argparse
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.decoding import load, to_8_bits
from src.runs.answers import answer
from src.runs.exports import Models, import_onnxruntime
from tools.bad_pictures import bad_pictures
from tools.timing import Row, compare, format_row

ort = import_onnxruntime()
FORM = "multipart/form-data; boundary=x"
FIT = ["--trainer.max_epochs=1", "--no_page", "--test=false"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--repeats", type=int, default=5, help="number of rounds of each comparison")
    parser.add_argument("--seconds", type=float, default=3, help="length of one measurement")
    parser.add_argument("--mnist", help="folder with MNIST; without it, the model reads digits of 8 x 8 pixels")
    parser.add_argument("--json", type=Path, help="file to write the table to")
    options = parser.parse_args()
    if unknown := [group for group in options.groups if group not in GROUPS]:
        parser.error(f"unknown group {', '.join(unknown)}: choose from {', '.join(GROUPS)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        options.run, options.models = train(Path(folder), options.mnist)
        print(f"{'ours / other; milliseconds unless stated':<43}{'ours':>9}{'other':>9} ratio goal")  # noqa: T201
        for group in options.groups or GROUPS:
            for row in GROUPS[group](options):
                rows.append(row)
                print(format_row(row), flush=True)  # noqa: T201
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    sys.exit(not all(row["met"] for row in rows))


def train(folder: Path, mnist: str | None) -> tuple[Path, Path]:
    """Train a small classifier for an epoch and export it; return the folders of the run and of its versions."""
    name = "mnist" if mnist else "digits"
    data = [f"--data.root={mnist}"] if mnist else []
    root = [f"--trainer.default_root_dir={folder}", f"--name={name}"]
    command("fit", f"--config=configs/{name}.yaml", *FIT, *data, *root)
    run, models = folder / name / "version_0", folder / "models"
    command("export", f"--run={run}", f"--output={models}")
    return run, models


def command(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "src.cli", *args], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def serving(*args: object, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    """Run a server until the end of the block; yield its process, its port, and the seconds until it answered."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [sys.executable, "-W", "ignore", *map(str, args)]
    line = [each.replace("PORT", str(port)) for each in line]
    started = time.perf_counter()
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=os.environ | (env or {})
    )
    try:
        while time.perf_counter() - started < 90:
            try:
                post(port, b"no picture")
                break
            except OSError:
                assert process.poll() is None, f"{' '.join(line)} ended with exit code {process.returncode}"
                time.sleep(0.02)
        yield process, port, time.perf_counter() - started
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()


def ours(options: argparse.Namespace, *args: str) -> Any:
    return serving("-m", "src.cli", "serve", options.models, "--port=PORT", *args)


def post(port: int, body: bytes, path: str = "/predict", timeout: float = 30) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def png(shape: tuple[int, ...], kind: str = "png") -> bytes:
    """Return an image file of smooth noise, as compressible as a drawing."""
    noise = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    image, file = Image.fromarray(noise).convert("RGB" if shape[0] == 3 else "L"), io.BytesIO()
    image.resize((shape[2], shape[1])).save(file, kind)
    return file.getvalue()


def form(picture: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
    return head + picture + b"\r\n--x--\r\n"


def floor(models: Path, picture: bytes, seconds: float) -> float:
    """Return the milliseconds of decoding, model and JSON for one picture after the other, without a server."""
    version, count = Models.find(models).load(1), 0
    session = ort.InferenceSession(version.model, one_thread(), providers=["CPUExecutionProvider"])
    (pixels,), names = session.get_inputs(), [each.name for each in session.get_outputs()]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        image = to_8_bits(load(io.BytesIO(picture), version.shape), version.shape)
        outputs = dict(zip(names, session.run(names, {pixels.name: image[None]}), strict=True))
        json.dumps(answer(version.info, outputs, 0)).encode()
        count += 1
    return 1e3 * seconds / count


def one_thread() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return options


def measure(port: int, body: bytes, clients: int, seconds: float, kind: str = "image/png") -> dict[str, Any]:
    """Return what ``tools.load`` measured in a process of its own; refuse any answer but 200."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(body)
        line = [sys.executable, "-m", "tools.load", str(port), file.name, f"--type={kind}"]
        line += [f"--clients={clients}", f"--seconds={seconds}"]
        found: dict[str, Any] = json.loads(subprocess.run(line, check=True, capture_output=True).stdout)
    assert found["states"].keys() == {"200"}, found["states"]
    return found


def resident(process: subprocess.Popen[bytes]) -> float:
    """Return the memory of a process and its children in MiB; what they share counts once."""
    total, todo = 0, [process.pid]
    while todo:
        pid = todo.pop()
        total += int(
            next(
                x for x in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines() if "Pss:" in x
            ).split()[1]
        )
        todo += [
            int(each)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for each in (task / "children").read_text(encoding="utf-8").split()
        ]
    return total / 1024


def speed(options: argparse.Namespace) -> Iterator[Row]:
    """Small pictures from 1 and 32 clients; memory and start."""
    picture = png(Models.find(options.models).load(1).shape)
    with ExitStack() as stack:
        servers = {"ours": stack.enter_context(ours(options))}
        for kind in ("fastapi", "litserve"):
            servers[kind] = stack.enter_context(serving("-m", "tools.servers", kind, options.run, "PORT"))
        bodies = {kind: (form(picture), FORM) if kind == "litserve" else (picture, "image/png") for kind in servers}
        alone: dict[str, list[float]] = {kind: [] for kind in servers}
        many: dict[str, list[float]] = {kind: [] for kind in ("floor", *servers)}
        for _ in range(options.repeats):
            many["floor"].append(floor(options.models, picture, options.seconds))
            for kind, (_, port, _) in servers.items():
                body, content = bodies[kind]
                many[kind].append(1e3 / measure(port, body, 32, options.seconds, content)["per_s"])
                alone[kind].append(measure(port, body, 1, options.seconds, content)["p50"])
        yield compare("a request, 32 clients / floor", many["ours"], many["floor"], 1 / 0.85, 1)
        for kind in ("fastapi", "litserve"):
            yield compare(f"a request, 32 clients / {kind}", many["ours"], many[kind], 0.25, 1)
            yield compare(f"a request, 1 client / {kind}", alone["ours"], alone[kind], unit=1)
        memory = {kind: resident(process) for kind, (process, *_) in servers.items()}
        yield compare("MiB / fastapi", [memory["ours"]], [memory["fastapi"]], 0.15, 1)
        yield compare("s until the first answer / fastapi", [servers["ours"][2]], [servers["fastapi"][2]], 0.25, 1)


def photo(options: argparse.Namespace) -> Iterator[Row]:
    """JPEG files of 640 x 480 pixels from 8 clients."""
    noise = np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(file, "jpeg", quality=90)  # 0.1 MB, as a camera's
    picture = file.getvalue()
    with ours(options) as (_, one, _), ours(options, "--workers=2") as (_, two, _):
        times: dict[str, list[float]] = {"floor": [], "1 process": [], "2 processes": []}
        for _ in range(options.repeats):
            times["floor"].append(floor(options.models, picture, options.seconds))
            for name, port in (("1 process", one), ("2 processes", two)):
                times[name].append(1e3 / measure(port, picture, 8, options.seconds)["per_s"])
    for name in ("1 process", "2 processes"):
        yield compare(f"a 640 x 480 JPEG, {name} / floor", times[name], times["floor"], 1 / 1.2, 1)


def count(name: str, bad: int, of: int, most: int = 0) -> Row:
    return {
        "name": name,
        "ours": bad,
        "other": of,
        "ratio": bad / max(1, of),
        "goal": most,
        "met": bad <= most and of > 0,
    }


@contextmanager
def clients(port: int, picture: bytes, number: int = 8) -> Iterator[Counter[int]]:
    """Send pictures from threads during the block, one connection each; yield the counts by status, 0 if one is lost.

    A client that is told to close its connection opens another; one that is refused a new connection stops.
    """
    seen: Counter[int] = Counter()
    stop = threading.Event()

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not stop.is_set():
            try:
                connection.connect() if connection.sock is None else None
            except OSError:
                return
            try:
                connection.request("POST", "/predict", picture)
                response = connection.getresponse()
                response.read()
                seen[response.status] += 1
            except (OSError, http.client.HTTPException):
                seen[0] += 1
                return

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def changes(options: argparse.Namespace) -> Iterator[Row]:
    """Requests that are lost while versions change, and while the server stops."""
    models = Models.find(options.models)
    picture = png(models.load(1).shape)
    command("export", f"--run={options.run}", f"--output={options.models}", "--candidate")
    with ours(options) as (process, port, _):
        with clients(port, picture) as seen:
            for number in (2, 1, 2, 1, 2, 1):
                models.use(number)
                time.sleep(0.6)
        yield count("lost at 6 changes of version / requests", seen.total() - seen[200], seen.total())
        with clients(port, picture) as seen:
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
        yield count("lost at a stop / requests", seen.total() - seen[200], seen.total())
        yield count("exit code of a stop / stops", code, 1)


def attacks(options: argparse.Namespace) -> Iterator[Row]:
    """Heads that never end, damaged pictures, random bytes."""
    good = png(Models.find(options.models).load(1).shape)
    with ours(options) as (process, port, _):
        half = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
        for each in half:
            each.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")
        yield count("good requests refused meanwhile / 1", post(port, good)[0] != 200, 1)
        time.sleep(8)
        yield count("half heads open after 8 s / sent", sum(map(still_open, half)), len(half))
        draw, states = random.Random(0), Counter[int]()
        bodies = [each for each in bad_pictures().values() if each is not None]
        bodies += [png((3, 64, 64), kind) for kind in ("png", "jpeg", "gif", "webp", "tiff", "bmp", "ppm")]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for i in range(10_000):
            body = bytearray(draw.choice(bodies))
            for _ in range(draw.randrange(8)):
                body[draw.randrange(len(body)) if body else 0 : draw.randrange(len(body) + 1)] = draw.randbytes(4)
            connection.request("POST", ("/predict", "/v2/models/x/infer")[i % 9 == 0], bytes(body))
            response = connection.getresponse()
            response.read()
            states[response.status] += 1
        bad = sum(n for status, n in states.items() if status >= 500 and status != 503)
        yield count("5xx answers but 503 / mutated bodies", bad, states.total())
        yield count("crashed / 1", process.poll() is not None or post(port, good)[0] != 200, 1)


def still_open(half: socket.socket) -> bool:
    half.setblocking(False)
    try:
        return bool(half.recv(4096)) and half.recv(4096) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def schema(options: argparse.Namespace) -> Iterator[Row]:
    """What schemathesis finds in the server, by its own OpenAPI description."""
    with ours(options) as (_, port, _), tempfile.TemporaryDirectory() as folder:
        settings = '[checks]\npositive_data_acceptance.expected-statuses = ["2xx", 413, 415, 422, 503]\n'
        Path(folder, "schemathesis.toml").write_text(settings, encoding="utf-8")
        line = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", "--seed=0"]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout[-4000:], done.stderr[-2000:])  # noqa: T201
        yield count("failures of schemathesis / runs", int(done.returncode != 0), 1)


GROUPS = {"speed": speed, "photo": photo, "changes": changes, "attacks": attacks, "schema": schema}

if __name__ == "__main__":
    main()
