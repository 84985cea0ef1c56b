"""Interrupt runs at any moment, resume them, and compare each with a run that was never interrupted."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from tests.processes import PICTURES, SMALL, Launched, Process, draw_pictures, obeys
from tools.comparison import differences

ACCUMULATE, WITHIN_EPOCHS = "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"
PLATEAU = ["--model.schedule=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.schedule.patience=0"]
PLATEAU += ["--model.schedule.threshold=0.5", "--model.warmup_steps=0"]
EMA, MIX = "--trainer.callbacks+=src.callbacks.EMA", ["--data.mix=src.data.MixUp", "--data.mix.alpha=0.4"]
STOPPING = ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
STOPPING += ["--trainer.callbacks.patience=0"]
FREEZE = ["--trainer.callbacks+=src.callbacks.Freeze", "--trainer.callbacks.match=net.1.*"]
FREEZE += ["--trainer.callbacks.start=1", "--trainer.callbacks.stop=2"]
VARIANTS = {
    "in memory": [],
    "accumulation": [ACCUMULATE],
    "validation within epochs": [WITHIN_EPOCHS],
    "max_steps": ["--trainer.max_epochs=-1", "--trainer.max_steps=63"],
    "early stopping": [*STOPPING, "--model.optimizer.lr=1", "--trainer.max_epochs=9"],
    "plateau": PLATEAU,
    "EMA": [EMA],
    "frozen layers": FREEZE,
    "mixup": MIX,
    "no workers": [*PICTURES, "--data.num_workers=0"],
    "2 workers": [*PICTURES, "--data.num_workers=2"],
    "all of these": [ACCUMULATE, WITHIN_EPOCHS, *PLATEAU, EMA, *MIX],
    "all of these and 2 workers": [*PICTURES, "--data.num_workers=2", ACCUMULATE, WITHIN_EPOCHS, *PLATEAU, EMA, *MIX],
}
GRID = {name: [*SMALL, *settings] for name, settings in VARIANTS.items()}
OWN_RUN = ["--name=digits", "--model=tests.spoilers.OwnModule", "--data=tests.spoilers.OwnData"]
OWN_RUN += ["--trainer.accelerator=cpu", "--trainer.max_epochs=8", "--trainer.callbacks=tests.spoilers.Trace"]
OWN = {
    "own module and DataLoader": OWN_RUN,
    "own DataLoader with workers": [*OWN_RUN, "--data.num_workers=2"],
    "own stream": [*OWN_RUN, "--data.stream=true"],
}
SHARDS = [*SMALL, "--data=src.data.ShardFolder", "--data.batch_size=32", "--data.window=8", "--data.root=../shards"]
WORKERS = {f"{count} workers": [*SHARDS, f"--data.num_workers={count}"] for count in (0, 1, 2, 4)}
TWO = {"two processes": [*SMALL, "--trainer.max_epochs=20"]}
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]


def killed(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILL at any moment: the same command resumes, and the run ends bit for bit as if never interrupted."""
    yield from interrupted(tries, draw, folder, [signal.SIGKILL], GRID)


def own(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILL of plain LightningModules and DataLoaders: they resume bit for bit from the end of an epoch."""
    yield from interrupted(tries, draw, folder, [signal.SIGKILL], OWN)


def asked(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGTERM, SIGINT, SIGHUP, SIGUSR1: exit code 128 + signal, and the same command resumes bit for bit."""
    yield from interrupted(tries, draw, folder, SIGNALS, GRID)


def asked_ranks(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """The same signals to either of two processes: both exit, with 128 + signal, and the run resumes bit for bit."""
    yield from interrupted(tries, draw, folder, SIGNALS, TWO, partial(Launched, torchrun=False), most=5)


def interrupted(
    tries: int,
    draw: random.Random,
    folder: Path,
    signals: Sequence[int],
    grid: dict[str, list[str]],
    start: Callable[[Sequence[str], Path], Process | Launched] = Process,
    most: int = 3,
) -> Iterator[str]:
    """Interrupt each run of a grid one to ``most`` times; yield for each signal what was wrong in the end."""
    draw_pictures(folder / "pictures")
    seconds: dict[str, float] = {}
    signaled = 0
    for i in count():
        if signaled >= tries:
            return
        name = list(grid)[i % len(grid)]
        args, reference, place = ["fit", *grid[name], "--resume=auto"], folder / name, folder / f"interrupted_{i}"
        if name not in seconds:
            seconds[name] = duration(start(args, reference))
        verdicts = []
        for _ in range(draw.randint(1, most)):
            process, number = start(args, place), draw.choice(signals)
            time.sleep(draw.uniform(0, seconds[name]))
            verdicts.append(interrupt(process, number, draw))
        code = start(args, place).wait()
        wrong = [verdict for verdict in verdicts if verdict]
        wrong += [f"exit code {code}"] if code else differences(place, reference)
        faults = max(sum(verdict is not None for verdict in verdicts), bool(wrong))
        signaled += faults
        yield from [", ".join(f"{name}: {text}" for text in wrong[:5])] * faults


def interrupt(process: Process | Launched, number: int, draw: random.Random) -> str | None:
    """Send a signal; return what is wrong with the exit code, or None if the run had finished before the signal."""
    handled = process.interrupt(number, draw)
    code = process.wait()
    if handled is None:
        return None if code == 0 else f"exit code {code} without a signal"
    return "" if obeys(number, code, handled) else f"signal {number} ended in exit code {code}"


def duration(process: Process | Launched) -> float:
    """Return the seconds until a process that must succeed ends."""
    started = time.monotonic()
    assert process.wait() == 0, process.log.read_text(encoding="utf-8")
    return time.monotonic() - started


def ranks(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILL of either of two processes under torchrun: it restarts them, and the run ends bit for bit the same."""
    yield from killed_ranks(tries, draw, folder, "ddp")


def sharded(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """The same with weights that are divided among the processes (FSDP2)."""
    yield from killed_ranks(tries, draw, folder, "fsdp")


def killed_ranks(tries: int, draw: random.Random, folder: Path, preset: str) -> Iterator[str]:
    """Kill ranks of runs with a preset; yield for each what was wrong in the end."""
    args, reference = ["fit", *TWO["two processes"], "--resume=auto"], folder / "reference"
    seconds = duration(Launched(args, reference, preset=preset))
    total = 0
    for i in count():
        if total >= tries:
            return
        place, faults = folder / f"interrupted_{i}", 0
        process = Launched(args, place, preset=preset)
        while faults < min(5, tries - total):
            time.sleep(draw.uniform(0, seconds))
            if process.agent.poll() is not None:
                break
            if pids := process.ranks():
                os.kill(draw.choice(pids), signal.SIGKILL)
                faults += 1
        code = process.wait()
        wrong = [f"exit code {code}"] if code else differences(place, reference)
        faults = max(faults, bool(wrong))
        total += faults
        yield from [", ".join(wrong[:5])] * faults


def shards(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILL while shards are read with 0, 1, 2 and 4 workers: each run ends bit for bit like the one without."""
    write_shards(folder)
    yield from interrupted(tries, draw, folder, [signal.SIGKILL], WORKERS)
    references = [folder / name for name in WORKERS if (folder / name).is_dir()]
    yield from [", ".join(differences(place, references[0])[:5]) for place in references[1:]]


def write_shards(folder: Path) -> None:
    """Write the first digits of scikit-learn as shards of 4 KB."""
    draw_pictures(folder / "pictures")
    args = [*PICTURES, "--data.root=pictures", "--data.cache=cache", "--output=shards", "--shard_mb=0.004096"]
    assert Process(["shard", *SMALL, *args], folder).wait() == 0, folder.with_suffix(".log").read_text(encoding="utf-8")
