"""The log: one line of JSON for each request and event, on stdout. It never has pictures or keys."""

import traceback
from collections import deque
from datetime import UTC, datetime

from src.commands.serving.messages import Request, encode
from src.runs.summary import echo


class Log:
    """Lines that wait until the next flush, because writing each one alone would take a tenth of the time."""

    def __init__(self, worker: int = 0) -> None:
        self.worker, self.lines = worker, deque[str]()

    def request(self, request: Request, status: int, seconds: float) -> None:
        self.lines.append(
            f'{{"time":"{now()}","id":"{request.id}","method":"{request.method}",'
            f'"path":{encode(request.path[:200])},"status":{status},"ms":{1000 * seconds:.2f},'
            f'"version":{request.version or "null"},"bytes":{request.size}}}'
        )

    def event(self, text: str) -> None:
        self.lines.append(encode({"time": now(), "worker": self.worker, "event": text}))

    def bug(self) -> None:
        """Log the exception that is handled now, with its traceback."""
        self.event(traceback.format_exc())

    def flush(self) -> None:
        if lines := [self.lines.popleft() for _ in range(len(self.lines))]:
            echo("\n".join(lines))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
