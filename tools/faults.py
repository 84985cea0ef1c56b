"""Do to real runs what happens to runs, and count how many survive.

python -m scripts.faults [PROMISE ...] [--tries N] [--seed S]

What needs a file system of its own (disk) is left out where this process may not mount one.
"""

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from scripts.bad_inputs import doors, inputs, refusal
from scripts.bad_pictures import pictures
from scripts.processes import PICTURES, ROOT, SMALL, Launched, Process, differences, draw_pictures, same
from src import UserError
from src.checkpoint import Durable, read, spoilt

ACCUMULATE, AMID = "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"
PLATEAU = ["--model.schedule=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.schedule.patience=0"]
PLATEAU += ["--model.schedule.threshold=0.5", "--model.warmup_steps=0"]
EMA, MIX = "--trainer.callbacks+=src.callbacks.EMA", ["--data.mix=src.data.MixUp", "--data.mix.alpha=0.4"]
STOPPING = ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
STOPPING += ["--trainer.callbacks.patience=0"]
FREEZE = ["--trainer.callbacks+=src.callbacks.Freeze", "--trainer.callbacks.match=net.1.*"]
FREEZE += ["--trainer.callbacks.start=1", "--trainer.callbacks.stop=2"]
GRID = {
    "in memory": [],
    "accumulation": [ACCUMULATE],
    "validation amid epochs": [AMID],
    "max_steps": ["--trainer.max_epochs=-1", "--trainer.max_steps=63"],
    "early stopping": [*STOPPING, "--model.optimizer.lr=1", "--trainer.max_epochs=9"],
    "plateau": PLATEAU,
    "EMA": [EMA],
    "frozen layers": FREEZE,
    "mixup": MIX,
    "no workers": [*PICTURES, "--data.num_workers=0"],
    "2 workers": [*PICTURES, "--data.num_workers=2"],
    "all of these": [ACCUMULATE, AMID, *PLATEAU, EMA, *MIX],
    "all of these and 2 workers": [*PICTURES, "--data.num_workers=2", ACCUMULATE, AMID, *PLATEAU, EMA, *MIX],
}


OWN_RUN = ["--name=digits", "--model=scripts.spoilers.OwnModule", "--data=scripts.spoilers.OwnData"]
OWN_RUN += ["--trainer.accelerator=cpu", "--trainer.max_epochs=8", "--trainer.callbacks=scripts.spoilers.Trace"]
OWN = {
    "own module and DataLoader": OWN_RUN,
    "own DataLoader with workers": [*OWN_RUN, "--data.num_workers=2"],
    "own stream": [*OWN_RUN, "--data.stream=true"],
}
ASKING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]


def killed(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILLs at any moment; the same command goes on, and all ends equal to the bit."""
    yield from cut_off(tries, draw, folder, [signal.SIGKILL], {name: [*SMALL, *more] for name, more in GRID.items()})


def own(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILLs of modules and DataLoaders that keep no rule of ours: they go on to the bit from an epoch's end."""
    yield from cut_off(tries, draw, folder, [signal.SIGKILL], OWN)


def asked(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGTERM, SIGINT, SIGHUP, SIGUSR1: exit with 128 + signal; the same command goes on, to the bit."""
    yield from cut_off(tries, draw, folder, ASKING, {name: [*SMALL, *more] for name, more in GRID.items()})


def cut_off(
    tries: int, draw: random.Random, folder: Path, signals: list[signal.Signals], grid: dict[str, list[str]]
) -> Iterator[str]:
    """Yield for each signal that met a run what was wrong in the end; runs meet up to three."""
    draw_pictures(folder / "pictures")
    seconds: dict[str, float] = {}
    met = run = 0
    while met < tries:
        name, cut, run = list(grid)[run % len(grid)], folder / f"cut_off_{run}", run + 1
        typed, whole = ["fit", *grid[name], "--resume=auto"], folder / name
        if name not in seconds:
            started = time.monotonic()
            process = Process(typed, whole)
            assert process.wait() == 0, process.log.read_text()
            seconds[name] = time.monotonic() - started
        codes = []
        for _ in range(draw.randint(1, 3)):
            process, number = Process(typed, cut), draw.choice(signals)
            time.sleep(draw.uniform(0, seconds[name]))
            process.kill(number)
            code = process.wait()
            if code != 0:
                codes.append((number, code))
        ended = Process(typed, cut).wait()
        wrong = [f"{name}: signal {n} ended in {code}" for n, code in codes if code not in (-n, 128 + n)]
        wrong += [f"{name}: exit code {ended}"] if ended else [f"{name}: {each}" for each in differences(cut, whole)]
        met += len(codes)
        yield from [", ".join(wrong[:5])] * len(codes)
        if not wrong:
            shutil.rmtree(cut)


def saving(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILLs while a checkpoint of 40 MB is saved: a whole file stays, and nothing beside it after the next save."""
    file, durable = folder / "last.ckpt", Durable()

    def content(number: int) -> dict[str, object]:
        weights = {"weight": torch.full((10_000_000,), float(number))}
        return {"state_dict": weights, "pytorch-lightning_version": "2.6.6"}

    def save_for_ever() -> None:
        number = 1
        while True:
            durable.save_checkpoint(content(number), file)
            number += 1

    folder.mkdir(parents=True)
    durable.save_checkpoint(content(0), file)
    for _ in range(tries):
        process = Process(save_for_ever, folder)
        time.sleep(draw.uniform(0.02, 0.3))
        process.kill()
        process.wait()
        try:
            weight = read(file)["state_dict"]["weight"]
            wrong = "" if bool((weight == weight[0]).all()) else "parts of two saves"
        except UserError as error:
            wrong = str(error)
        durable.save_checkpoint(content(0), file)
        left = sorted(path.name for path in folder.iterdir())
        yield wrong or ("" if left == ["last.ckpt"] else f"left over: {left}")


def disk(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Disk full or read-only, files limited in size, run folder gone: it goes on or says why; files stay whole."""
    for i in range(tries):
        place, kind = folder / str(i), ("full", "limited", "read-only", "gone")[i % 4]
        place.mkdir(parents=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "faults", place], capture_output=True).returncode:
            return
        run = place / "runs/digits/version_0"
        try:
            process = Process(["fit", *SMALL[:-1], "--trainer.max_epochs=8", "--last.every_n_steps=2"], place)
            while not (run / "checkpoints/best.ckpt").is_file():
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.5))
            if kind == "full":
                with contextlib.suppress(OSError), (place / "filler").open("wb") as filler:
                    while True:
                        filler.write(b"0" * 1024)
                        filler.flush()
            elif kind == "limited":
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000, 10_000))
            elif kind == "read-only":
                subprocess.run(["mount", "-o", "remount,ro", place], check=False, capture_output=True)
            else:
                shutil.rmtree(run)
            code = process.wait()
            told = process.log.read_text()
            wrong = "" if code in (0, 2) else f"{kind}: exit code {code}: {told[-500:]}"
            for file in (run / "checkpoints").glob("*.ckpt"):
                try:
                    read(file)
                except UserError as error:
                    wrong = f"{kind}: {error}"
            if kind != "gone" and not (run / "checkpoints/last.ckpt").is_file():
                wrong = f"{kind}: nothing left"
            yield wrong
        finally:
            subprocess.run(["umount", "-l", place], check=False)


def damage(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Bits flipped in a checkpoint, and files cut short: refused, or nothing that matters was hit."""
    assert Process(["fit", *SMALL], folder).wait() == 0
    file = folder / "runs/digits/version_0/checkpoints/last.ckpt"
    content, stored = file.read_bytes(), torch.load(file, weights_only=True)
    for i in range(tries):
        damaged = bytearray(content)
        if i % 5:
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(damaged)) :]
        file.write_bytes(damaged)
        try:
            yield "" if same(read(file), stored) else "loaded, and not the same"
        except UserError:
            yield ""


def numbers(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """NaN or infinite pixels, losses or gradients at any step: weights stay finite and are learnt, or it says so."""
    for i in range(tries):
        kind, first, count = ("pixels", "loss", "gradient")[i % 3], draw.randrange(40), draw.choice((1, 3, 12))
        spoil = ["--trainer.callbacks+=scripts.spoilers.Spoil", f"--trainer.callbacks.kind={kind}"]
        spoil += [f"--trainer.callbacks.first={first}", f"--trainer.callbacks.count={count}"]
        process = Process(["fit", *SMALL, *spoil], folder / str(i))
        code, told = process.wait(), process.log.read_text()
        files = list((folder / str(i) / "runs/digits/version_0/checkpoints").glob("*.ckpt"))
        finite = all(not spoilt(read(file)["state_dict"]) for file in files)
        honest = code == 0 if count < 10 else code == 2 and "10 steps in a row" in told
        yield "" if finite and honest else f"{kind} in steps {first} to {first + count - 1}: exit code {code}"


def ranks(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILLs of any of two processes under torchrun: it starts them again, and all ends equal to the bit."""
    typed, whole = ["fit", *SMALL, "--resume=auto", "--trainer.max_epochs=20"], folder / "whole"
    started, process = time.monotonic(), Launched(typed, whole)
    assert process.wait() == 0, process.log.read_text()
    seconds = time.monotonic() - started
    met = 0
    while met < tries:
        cut, faults, process = folder / f"cut_off_{met}", 0, Launched(typed, folder / f"cut_off_{met}")
        while faults < min(5, tries - met):
            time.sleep(draw.uniform(0, seconds))
            if process.agent.poll() is not None:
                break
            if pids := process.ranks():
                os.kill(draw.choice(pids), signal.SIGKILL)
                faults += 1
        code = process.wait()
        wrong = [f"exit code {code}"] if code else differences(cut, whole)
        met += faults
        yield from [", ".join(wrong[:5])] * faults


def asked_ranks(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """The same signals to any of two processes: both end, with 128 + signal, and all goes on to the bit."""
    typed, whole = ["fit", *SMALL, "--resume=auto", "--trainer.max_epochs=20"], folder / "whole"
    started, process = time.monotonic(), Launched(typed, whole, torchrun=False)
    assert process.wait() == 0, process.log.read_text()
    seconds = time.monotonic() - started
    met = 0
    while met < tries:
        cut, codes = folder / f"cut_off_{met}", list[tuple[int, int]]()
        while len(codes) < min(5, tries - met):
            process, number = Launched(typed, cut, torchrun=False), draw.choice(ASKING)
            time.sleep(draw.uniform(0, seconds))
            if not (pids := process.ranks()):
                break
            os.kill(draw.choice(pids), number)
            codes.append((number, process.wait(60)))
        ended = Launched(typed, cut, torchrun=False).wait()
        wrong = [f"signal {n} ended in {code}" for n, code in codes if code not in (0, -n, 128 + n)]
        wrong += [f"exit code {ended}"] if ended else differences(cut, whole)
        met += len(codes)
        yield from [", ".join(wrong[:5])] * len(codes)


def memory(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Memory that runs out in a step: one line says what to turn, nothing is lost; in halves, the same result."""
    base = ["fit", f"--config={ROOT}/configs/digits.yaml", "--trainer.max_epochs=3", "--test=false", "--resume=auto"]
    base += ["--model.net=scripts.spoilers.Greedy"]
    assert Process(base, folder / "whole").wait() == 0
    for i in range(tries):
        where = draw.choice(["forward", "backward"])
        greedy = [f"--model.net.most={draw.randint(1, 31)}", f"--model.net.where={where}"]
        greedy += [f"--model.net.begin={draw.randrange(60)}"]
        process = Process([*base, *greedy], folder / str(i))
        wrong = refusal(process, "out of memory: type --model.on_out_of_memory=halve")
        code = Process([*base, *greedy, "--model.on_out_of_memory=halve"], folder / str(i)).wait()
        wrong = wrong or (f"exit code {code}" if code else "")
        if not wrong:
            weights, same_weights = (
                torch.load(next(place.glob("runs/digits/*/checkpoints/last.ckpt")), weights_only=True)["state_dict"]
                for place in (folder / str(i), folder / "whole")
            )
            close = all(torch.allclose(weights[key], same_weights[key], atol=1e-3) for key in weights)
            wrong = "" if close else "other weights"
        yield wrong


def together(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:  # noqa: ARG001
    """Runs started at once: each ends, in a folder of its own."""
    processes = [Process(["fit", *SMALL], folder) for _ in range(tries)]
    codes = [process.wait(600) for process in processes]
    runs = [path for path in (folder / "runs/digits").iterdir() if (path / "checkpoints/last.ckpt").is_file()]
    yield from ["" if code == 0 else f"exit code {code}" for code in codes[: len(runs)]]
    yield from ["no folder"] * (tries - len(runs))


PROMISES: dict[str, tuple[int, Callable[[int, random.Random, Path], Iterator[str]]]] = {
    "killed": (200, killed),
    "asked": (50, asked),
    "own": (20, own),
    "saving": (100, saving),
    "disk": (20, disk),
    "damage": (250, damage),
    "numbers": (21, numbers),
    "together": (8, together),
    "memory": (20, memory),
    "ranks": (20, ranks),
    "asked_ranks": (50, asked_ranks),
    "inputs": (999, inputs),
    "pictures": (999, pictures),
    "doors": (999, doors),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promises", nargs="*", metavar="PROMISE", help=", ".join(PROMISES))
    parser.add_argument("--tries", type=int, help="how many faults of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := [name for name in options.promises if name not in PROMISES]:
        parser.error(f"promises are {', '.join(PROMISES)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have let ignore
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    for name in options.promises or PROMISES:
        tries, promise = PROMISES[name]
        faults = []
        for wrong in promise(options.tries or tries, random.Random(options.seed), folder / name):
            faults.append(wrong)
            if wrong:
                print(f"  {name}: {wrong}", flush=True)  # noqa: T201
        print(f"{faults.count('')} of {len(faults)} {name}: {promise.__doc__}", flush=True)  # noqa: T201
    print(f"what did not survive lies in {folder}")  # noqa: T201


if __name__ == "__main__":
    main()
