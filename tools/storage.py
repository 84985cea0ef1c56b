"""Damage what runs write: kill a save, fill the disk, flip bits, start runs at the same time."""

import contextlib
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import torch

from src import UserError
from src.runs.checkpoint import AtomicCheckpointIO, load_checkpoint
from tests.processes import SMALL, Process
from tools.comparison import same
from tools.interruptions import SHARDS, write_shards

RUN = "runs/digits/version_0"


def saving(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILL while a checkpoint of 40 MB is written: the file stays valid, and the next save removes leftovers."""
    file, checkpoint_io = folder / "last.ckpt", AtomicCheckpointIO()

    def save(number: int) -> None:
        weights = {"weight": torch.full((10_000_000,), float(number))}
        content = {"state_dict": weights, "pytorch-lightning_version": "2.6.6"}
        checkpoint_io.save_checkpoint(content, file)

    def save_forever() -> None:
        number = 0
        while True:
            number += 1
            save(number)

    folder.mkdir(parents=True)
    save(0)
    for _ in range(tries):
        process = Process(save_forever, folder)
        time.sleep(draw.uniform(0.02, 0.3))
        process.kill()
        code = process.wait()
        try:
            weight = load_checkpoint(file)["state_dict"]["weight"]
            wrong = "" if bool((weight == weight[0]).all()) else "a mixture of two saves"
        except UserError as error:
            wrong = str(error)
        save(0)
        names = sorted(path.name for path in folder.iterdir())
        wrong = wrong or ("" if names == ["last.ckpt"] else f"left over: {names}")
        yield wrong or ("" if code == -signal.SIGKILL else f"exit code {code} before the signal")


def disk(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Disk full or read-only, file size limited, run folder deleted: it trains on or says why not; files stay valid."""
    met = 0
    for i in range(3 * tries):  # some runs finish before the fault
        if met == tries:
            return
        place, kind = folder / str(i), ("full", "limited", "read-only", "gone")[i % 4]
        place.mkdir(parents=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "faults", place], capture_output=True).returncode:
            return
        try:
            if (wrong := disk_fault(kind, place, draw)) is not None:
                met += 1
                yield wrong and f"{kind}: {wrong}"
        finally:
            subprocess.run(["umount", "-l", place], check=False)


def disk_fault(kind: str, place: Path, draw: random.Random) -> str | None:
    """Train in a small file system and break it after the first checkpoint.

    Return what is wrong in the end, or None if the run had finished before.
    """
    run = place / RUN
    process = Process(["fit", *SMALL[:-1], "--trainer.max_epochs=8", "--last.every_n_steps=2"], place)
    while not (run / "checkpoints/best.ckpt").is_file() and process.process.exitcode is None:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.5))
    if process.finished.is_set():
        return None
    break_disk(kind, place, process.pid)
    code, output = process.wait(), process.log.read_text(encoding="utf-8")
    if code not in (0, 2) or (code == 2 and "error: " not in output):
        return f"exit code {code}: {output[-500:]}"
    if kind == "gone":
        unusable = (run / "checkpoints/last.ckpt").is_file() and not (run / "config.yaml").is_file()
        return "exit code 0, but the run has no config.yaml" if code == 0 and unusable else ""
    try:
        stored = [load_checkpoint(file) for file in (run / "checkpoints").glob("*.ckpt")]
        last = load_checkpoint(run / "checkpoints/last.ckpt")
    except UserError as error:
        return str(error)
    finished = code == 2 or last["epoch"] == 7
    return "" if stored and finished else f"exit code 0, but the last checkpoint is of epoch {last['epoch']}"


def break_disk(kind: str, place: Path, pid: int) -> None:
    if kind == "full":
        with contextlib.suppress(OSError), (place / "filler").open("wb") as filler:
            while True:
                filler.write(b"0" * 1024)
                filler.flush()
    elif kind == "limited":
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (10_000, 10_000))
    elif kind == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", place], check=False, capture_output=True)
    else:
        shutil.rmtree(place / RUN)


def damage(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Bits flipped in a checkpoint, or the file truncated: rejected, or the content is still the same."""
    assert Process(["fit", *SMALL], folder).wait() == 0
    file = folder / RUN / "checkpoints/last.ckpt"
    content, stored = file.read_bytes(), torch.load(file, weights_only=True)
    assert same(load_checkpoint(file), stored), "an intact file is not loaded"
    for i in range(tries):
        damaged = bytearray(content)
        if i % 5:
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(damaged)) :]
        file.write_bytes(damaged)
        try:
            yield "" if same(load_checkpoint(file), stored) else "loaded, but the content differs"
        except UserError:
            yield ""


def together(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:  # noqa: ARG001
    """Runs started at the same time: each finishes, in a folder of its own."""
    processes = [Process(["fit", *SMALL], folder) for _ in range(tries)]
    codes = [process.wait(600) for process in processes]
    runs = [path for path in (folder / "runs/digits").iterdir() if (path / "checkpoints/last.ckpt").is_file()]
    yield from ["" if code == 0 else f"exit code {code}" for code in codes[: len(runs)]]
    yield from ["no folder"] * (tries - len(runs))


def damaged_shards(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Shards truncated, missing or with a flipped bit, in a folder and at an address: one line names the shard."""
    write_shards(folder)
    for i in range(tries):
        place = folder / f"shards_{i}"
        shutil.copytree(folder / "shards", place)
        file = draw.choice(sorted(place.glob("train-*.zip")))
        content = bytearray(file.read_bytes())
        if i % 3 == 0:
            with ZipFile(file) as archive:
                start = draw.choice(archive.infolist()).header_offset
                name = int.from_bytes(content[start + 26 : start + 28], "little")
            content[start + 30 + name + draw.randrange(60)] ^= 1 << draw.randrange(8)  # in a picture
        file.write_bytes(content if i % 3 == 0 else content[: draw.randrange(len(content))])
        if i % 3 == 1:
            file.unlink()
        root = f"../{place.name}" if i % 2 else f"file://{place.absolute()}"
        cache, workers = f"--data.cache=../cache_{i}", f"--data.num_workers={i % 4}"
        process = Process(["fit", *SHARDS, f"--data.root={root}", cache, workers], folder / "run")
        code, output = process.wait(), process.log.read_text(encoding="utf-8")
        process.log.unlink()
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        right = code == 2 and len(errors) == 1 and file.name in errors[0] and "Traceback" not in output
        yield "" if right else f"exit code {code}: {output[-500:]}"
        shutil.rmtree(place)
