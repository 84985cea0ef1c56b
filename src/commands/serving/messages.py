"""Requests and replies of the server, on top of ASGI."""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from src.commands.serving.model import Gone

BODY_SECONDS = 10.0  # for a body to arrive
SANE_ID = re.compile(rb"[\w.:-]{1,64}", re.ASCII)
encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass
class Reply:
    """A response; the content is bytes or text of its media type, or an object to send as one line of JSON."""

    content: Any
    status: int = 200
    media: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        return f"{encode(self.content)}\n".encode() if self.media == "application/json" else self.content.encode()


class Refused(Exception):  # noqa: N818  # a reply, not an error of the program
    """A request that gets one line of error; the headers are those of the reply."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def reply(self) -> Reply:
        return Reply({"error": str(self)}, self.status, headers=self.headers)


class Request:
    """One HTTP request, and what its line in the log tells."""

    def __init__(self, scope: Any, receive: Callable[[], Awaitable[Any]]) -> None:
        self.receive = receive
        self.method, self.path = scope["method"], scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.id = given.decode() if SANE_ID.fullmatch(given) else os.urandom(12).hex()
        self.size, self.version = 0, 0  # bytes of the body; the version that answers
        self.connection: Any = scope.get("state", {}).get("connection")

    def gone(self) -> bool:
        """Tell whether the client has closed the connection."""
        return self.connection is not None and self.connection.gone

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def key(self) -> str:
        """What was sent as X-API-Key or as Authorization: Bearer."""
        scheme, _, token = self.header(b"authorization").partition(" ")
        return self.header(b"x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")

    async def body(self, most: int, room: Callable[[int], bool]) -> bytes:
        """Return the body; refuse one of more than ``most`` bytes, one that is too slow, and any if there is no room.

        After a reply, uvicorn reads and drops what a client still sends; the deadline for the next head ends that.
        """
        if self.header(b"content-encoding") not in ("", "identity"):
            raise Refused(415, "send the body as it is, without Content-Encoding")
        if int(self.headers.get(b"content-length", 0)) > most:
            raise Refused(413, f"the body may have at most {most:,} bytes")
        parts, more = [], True
        try:
            whole = self.connection is not None and not self.connection.part
            async with nullcontext() if whole else asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    self.size += len(parts[-1])
                    fits = room(len(parts[-1]))
                    if self.size > most:
                        raise Refused(413, f"the body may have at most {most:,} bytes")
                    if not fits:
                        raise Refused(503, "too many bytes of other requests are in memory", retry_after="1")
        except TimeoutError:
            text = f"the body took longer than {BODY_SECONDS:.0f} seconds"
            raise Refused(408, text, connection="close") from None
        return b"".join(parts)
