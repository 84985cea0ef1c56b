"""Which versions of a model are served: the current one and, for a share of the requests, a candidate."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from src import UserError, require
from src.commands.serving.model import Model
from src.runs.exports import Models, Version

POLL = 0.2  # seconds
COMPARED = 500  # last requests of the candidate that are compared with as many of the current version, or
FEWEST = 100  # at least so many
MORE_FAILURES, MORE_SECONDS = 0.01, 0.001  # than twice those of the current version are allowed: chance


Stamp = list[tuple[str, int, int]]  # name, size and time of change of each file


def stamp(folder: Path) -> Stamp:
    """Tell one state of the files in a folder from another."""
    try:
        stats = [(each.name, each.stat()) for each in folder.iterdir()]
    except OSError:  # of files that vanish
        return []
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


class Health:
    """How long the last requests of a version took, and which of them failed."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds: deque[float] = deque(maxlen=COMPARED)
        self.failed: deque[bool] = deque(maxlen=COMPARED)

    def add(self, seconds: float, failed: bool) -> None:
        self.count += 1
        self.seconds.append(seconds)
        self.failed.append(failed)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(0.99 * len(self.seconds))]

    @property
    def failures(self) -> float:
        return sum(self.failed) / max(1, len(self.failed))


class Versions:
    """The versions in memory, which follow those on disk."""

    def __init__(
        self, models: Models, share: float, load: Callable[[Version], Model], log: Callable[[str], None]
    ) -> None:
        self.models, self.share, self.load, self.log = models, share, load, log
        number = models.current
        require(
            number,
            f"{models.path} has no CURRENT version: choose one with python -m src.cli serve {models.path} --use N",
        )
        self.current = load(models.load(number or 0))
        self.candidate: Model | None = None
        self.broken: dict[int, Stamp] = {}  # not to be loaded again until their files change
        self.withdrawn: set[int] = set()
        self.health: dict[int, Health] = {}
        self.update(*self.find())

    @property
    def loaded(self) -> list[Model]:
        return [self.current, self.candidate] if self.candidate else [self.current]

    def choose(self, request_id: str) -> list[Model]:
        """Return the models for a request, the second for failures of the first.

        They are the same for the same ID, as long as the versions stay.
        """
        if self.candidate and crc32(request_id.encode()) < self.share * 2**32:
            return [self.candidate, self.current]
        return [self.current]

    def find(self) -> tuple[Model, Model | None]:
        """Return the models that should be current and candidate; what cannot be loaded changes nothing."""
        asked = [self.models.current, self.models.candidate if self.share else None]
        self.withdrawn.intersection_update(each for each in asked if each)  # until REJECTED is written
        current, candidate = (self.get(number) if number else None for number in asked)
        return current or self.current, candidate

    def get(self, number: int) -> Model | None:
        known = {each.number: each for each in self.loaded}
        files = stamp(self.models.path / str(number))
        if number in known or self.broken.get(number) == files:
            return known.get(number)
        try:
            return self.load(self.models.load(number))
        except Exception as error:  # a UserError, or an OSError of files that vanish
            self.broken[number] = files
            self.log(f"version {number} is not served: {' '.join(str(error).split())}")
            return None

    def update(self, current: Model, candidate: Model | None) -> None:
        if candidate and (candidate.number <= current.number or candidate.number in self.withdrawn):
            candidate = None
        if current is not self.current:
            self.log(f"version {current.number} replaces version {self.current.number}")
        if candidate is not self.candidate and candidate:
            self.log(f"version {candidate.number} gets {self.share:.0%} of the requests")
        if current is not self.current or candidate is not self.candidate or not self.health:
            self.health = {each.number: Health() for each in (current, candidate) if each}
        self.current, self.candidate = current, candidate

    def note(self, model: Model, seconds: float, failed: bool) -> None:
        """Note a request; withdraw the candidate if it takes or fails twice as much as the current version."""
        if (health := self.health.get(model.number)) is None:  # it was replaced in the meantime
            return
        health.add(seconds, failed)
        if model is self.candidate and health.count % COMPARED == 0 and (reason := self.fault(health)):
            self.log(f"version {model.number} is withdrawn: {reason}")
            self.candidate = None
            self.withdrawn.add(model.number)
            try:
                self.models.reject(model.number, reason)
            except UserError as error:  # a read-only folder
                self.log(str(error))

    def fault(self, candidate: Health) -> str:
        current, of = self.health[self.current.number], f"over {COMPARED} requests; version {self.current.number}:"
        if candidate.failures > 2 * current.failures + MORE_FAILURES:
            return f"{candidate.failures:.1%} failed {of} {current.failures:.1%}"
        if current.count >= FEWEST and candidate.p99 > 2 * current.p99 + MORE_SECONDS:
            return f"p99 is {1000 * candidate.p99:.1f} ms {of} {1000 * current.p99:.1f} ms"
        return ""
