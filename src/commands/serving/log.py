"""The log: one line of JSON for each request and event, on stdout. It never has pictures or keys."""

import select
import sys
import traceback
from collections import deque
from datetime import UTC, datetime

from src.commands.serving.messages import Request, encode
from src.runs.summary import echo

MOST_LINES = 10_000  # that wait while nobody reads; more are dropped
LONGEST_EVENT = 3000  # characters
AT_ONCE = 4096  # bytes, which a pipe that is not full always takes (PIPE_BUF)


class Log:
    """Lines that wait until the next flush, because writing each one alone would take a tenth of the time.

    A reader that stops, as of ``| less``, does not stop the server.
    """

    def __init__(self, worker: int = 0) -> None:
        self.worker, self.lines, self.dropped = worker, deque[str](), 0

    def add(self, text: str) -> None:
        if len(self.lines) < MOST_LINES:
            self.lines.append(text)
        else:
            self.dropped += 1

    def request(self, request: Request, status: int, seconds: float) -> None:
        self.add(
            f'{{"time":"{now()}","id":"{request.id}","method":"{request.method}",'
            f'"path":{encode(request.path[:200])},"status":{status},"ms":{1000 * seconds:.2f},'
            f'"version":{request.version or "null"},"bytes":{request.size}}}'
        )

    def event(self, text: str) -> None:
        self.add(encode({"time": now(), "worker": self.worker, "event": text[-LONGEST_EVENT:]}))

    def bug(self) -> None:
        """Log the exception that is handled now, with its traceback."""
        self.event(traceback.format_exc())

    def flush(self) -> None:
        while self.lines and is_writable():
            lines, size = [self.lines.popleft()], 0
            while self.lines and (size := size + len(lines[-1]) + 1) + len(self.lines[0]) < AT_ONCE:
                lines.append(self.lines.popleft())
            echo("\n".join(lines))
        if self.dropped and not self.lines:
            dropped, self.dropped = self.dropped, 0
            self.event(f"{dropped} lines of the log were dropped, because nobody read them")


def is_writable() -> bool:
    """Tell whether stdout takes some lines at once."""
    try:
        return bool(select.select([], [sys.stdout], [], 0)[1])
    except (OSError, ValueError):  # closed, not a file, or on Windows
        return True


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
