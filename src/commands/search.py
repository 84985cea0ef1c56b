"""search: many runs of a config. The workers train them; this process starts the workers and imports no torch."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from src import UserError, require
from src.commands.studies.board import Board
from src.commands.studies.plan import Plan
from src.commands.studies.record import Study
from src.commands.studies.results import print_results, write_results
from src.config.arguments import Options, run_name, run_parent
from src.engine.launched import requeue
from src.runs.summary import print_rows

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGBREAK")  # Windows lacks two, others the last: Ctrl-Break
GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # on Windows a worker gets Ctrl-Break instead of SIGTERM
TRIES = 5  # starts of a worker in a row that end before it trains anything


def run(options: Options, *, workers: int = 1, storage: str | None = None) -> None:
    """Search for the best settings, or compare settings, seeds or folds.

    Args:
        workers: number of processes that train at the same time; 0 to train in
            this one.
        storage: URL of a database, postgresql://... or grpc://HOST:PORT; by
            default study.log in the study's folder.

    Examples:
        python -m src.cli search --config configs/digits.yaml --search.seeds=[0,1,2]
    """
    if any(each.startswith(("-h", "--help", "--print_config")) for each in options.settings):
        from src.config.parser import parse

        parse(options)  # prints and exits
    require(options.run is None, "search takes no --run: type --config with the run's config.yaml")
    require(workers >= 0, f"--workers must be at least 0, got {workers}")
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("optuna is not installed: run make extras") from None
    plan, folder = Plan.read(options.config, options.settings), study_folder(options)
    if not workers:
        end_with_parent()
        from src.commands.studies.start import start
        from src.commands.studies.worker import Worker

        study = start(options, plan, folder, storage)
        try:
            worker = Worker(options, study)
        except UserError:  # of the storage
            study.discard()
            raise
        worker.work()
    study = Study(folder, plan, storage)
    if workers:
        try:
            Workers(options, study, workers, storage).run()
        except SystemExit:
            if study.records():
                write_results(study)
            print_rows([("stopped", "the same command continues")])
            raise
    if "SEARCH_WORKER" not in os.environ:
        write_results(study)
        print_results(study)


def study_folder(options: Options) -> Path:
    """Return ``runs/search/NAME``; by default, the name joins those of the configs."""
    parent = run_parent(options)
    name = "_".join(dict.fromkeys(Path(file).stem for file in options.config)) or "search"
    return parent.parent / "search" / (name if parent.name == run_name(options) else parent.name)


def end_with_parent() -> None:
    """Make a worker save and exit if the process that started it is killed; only Linux can do it."""
    pr_set_pdeathsig = 1  # prctl(2)
    if "SEARCH_WORKER" in os.environ:
        with suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Workers:
    """Processes that run the trials of a study. What a killed one leaves behind, the others finish."""

    def __init__(self, options: Options, study: Study, count: int, storage: str | None) -> None:
        self.study = study
        files = [f"--config={file}" for file in options.config]
        more = [f"--storage={storage}"] if storage else []
        more += ["--trust"] if options.trust else []
        self.command = [sys.executable, "-m", "src.cli", "search", *files, *options.settings, *more, "--workers=0"]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self.failures, self.before = [0] * count, [self.progress()] * count

    def run(self) -> None:
        """Start the workers, and again those that were killed, until the study is complete."""
        board = Board(self.study)
        heard = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        before = {each: signal.signal(each, self.stop) for each in heard}
        try:
            with board:
                for i in range(len(self.processes)):
                    self.start(i)
                while any(self.processes):
                    time.sleep(0.5)
                    board.update()
                    for i, process in enumerate(self.processes):
                        if process and process.poll() is not None:
                            self.ended(i, process.returncode)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.end()

    def log(self, i: int) -> Path:
        return self.study.folder / f"worker_{platform.node()}_{i}.log"

    def start(self, i: int) -> None:
        count = len(self.processes)
        environment = os.environ | {"SEARCH_WORKER": str(i)}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
        gpus = visible_gpus()
        if count > 1 and gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
        self.study.make_folder()
        with self.log(i).open("ab") as log:
            streams: Any = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            own: Any = {"start_new_session": True, "creationflags": GROUP}
            self.processes[i] = subprocess.Popen(self.command, env=environment, **streams, **own)
        self.before[i] = self.progress()

    def ended(self, i: int, code: int) -> None:
        """Start a worker again unless the study is complete or it met a user's error."""
        self.processes[i] = None
        if code == 0:
            return
        if code == 2:
            log = self.log(i).read_text(encoding="utf-8", errors="replace") if self.log(i).is_file() else ""
            raise UserError(log.strip().rpartition("\n")[2].removeprefix("error: ") or "a worker refused its input")
        self.failures[i] = 0 if self.progress() != self.before[i] else self.failures[i] + 1
        if self.failures[i] == TRIES:
            bugs = [each.content["bug"] for each in self.study.records() if "bug" in each.content]
            reason = f"the last time by {bugs[-1]}" if bugs else f"with exit code {code}; see {self.log(i)}"
            raise UserError(f"a worker ended {TRIES} times before it trained anything, {reason}")
        self.start(i)

    def progress(self) -> tuple[int, float]:
        """Return the number of trials that have ended, and when the last checkpoint was saved."""
        saved = [file.stat().st_mtime for file in self.study.folder.glob("trial_*/*/version_*/checkpoints/*.ckpt")]
        return sum(each.is_finished for each in self.study.records()), max(saved, default=0.0)

    def stop(self, number: int, frame: Any) -> None:  # noqa: ARG002
        if signal.Signals(number).name == "SIGUSR1":  # from SLURM, before the time of the job is over
            requeue()
        raise SystemExit(128 + number)

    def end(self) -> None:
        """Ask the workers that are left to save and exit, and wait for them."""
        left = [process for process in self.processes if process]
        for process in left:
            with suppress(ProcessLookupError):
                process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        for process in left:
            process.wait()


def visible_gpus() -> list[str]:
    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    if known is not None:
        return [each for each in known.split(",") if each]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
