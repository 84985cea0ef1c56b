"""The ASGI application of one process: which request gets which reply."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any

from src.commands.serving import inference
from src.commands.serving.log import Log
from src.commands.serving.messages import Refused, Reply, Request
from src.commands.serving.metrics import Metrics
from src.commands.serving.model import Gone, Model
from src.commands.serving.openapi import document
from src.commands.serving.page import page
from src.commands.serving.pictures import prepare
from src.commands.serving.predictor import Predictor
from src.commands.serving.settings import Settings
from src.commands.serving.versions import POLL, Versions
from src.commands.serving.watch import Watch
from src.runs.exports import Models, Version

MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")
LEFT = 499  # nginx' status of a request whose client left
Handler = Callable[[Request], Awaitable[Reply]]


class App:
    """Finds the handler of a request, checks its key, sends the reply and logs it."""

    def __init__(self, settings: Settings, worker: int = 0) -> None:
        self.settings, self.log, self.draining = settings, Log(worker), False
        self.metrics = Metrics(worker, settings.metrics)
        prepare(settings.max_pixels)
        self.versions = Versions(Models.find(settings.models), settings.canary, self.load, self.log.event)
        self.predictor = Predictor(settings, self.versions, self.metrics)
        self.paths: dict[str, dict[str, Handler]] = {
            "/predict": {"POST": self.predictor.predict},
            "/": {"GET": self.page},
            "/openapi.json": {"GET": self.openapi},
            "/metrics": {"GET": self.prometheus},
            "/v2": {"GET": self.server},
            "/v2/health/live": {"GET": self.live},
            "/v2/health/ready": {"GET": self.ready},
        }
        if settings.records:
            self.paths["/feedback"] = {"POST": self.predictor.feedback}
        self.open: list[Handler] = [self.page, self.openapi, self.live, self.ready]  # without a key
        self.tick()

    def load(self, version: Version) -> Model:
        watch = Watch(version, self.settings.records is not None, self.metrics, self.log.event)
        return Model.load(version, self.settings.threads, watch, self.metrics.batch)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start, request, reply = perf_counter(), Request(scope, receive), None
        try:
            reply = await self.reply_to(request)
        except Refused as refusal:
            reply = refusal.reply
        except Gone:
            pass
        except Exception:
            self.log.bug()
            reply = Reply({"error": "a bug of the server: see its log"}, 500)
        finally:
            self.predictor.held -= request.size
        status = reply.status if reply else LEFT
        self.metrics.request(status)
        self.log.request(request, status, perf_counter() - start)
        if reply:
            await self.send(send, request, reply)

    async def send(self, send: Any, request: Request, reply: Reply) -> None:
        body = reply.body
        headers = [
            (b"content-type", reply.media.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request.id.encode()),
            *((name.encode(), value.encode()) for name, value in reply.headers.items()),
        ]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def reply_to(self, request: Request) -> Reply:
        methods = self.paths.get(request.path) or self.of_model(request.path)
        if methods is None:
            raise Refused(404, "no such path: see /openapi.json")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            raise Refused(405, f"{request.path[:100]} takes only {allowed}", allow=allowed)
        if self.settings.keys and handler not in self.open and not self.settings.admits(request.key):
            raise Refused(401, "send a key as X-API-Key or Authorization: Bearer", www_authenticate="Bearer")
        return await handler(request)

    def of_model(self, path: str) -> dict[str, Handler] | None:
        """Return the handlers of a path of the Open Inference Protocol; None for models that are not served."""
        found = MODEL.fullmatch(path)
        if not found or found[1] != self.versions.current.version.info["name"]:
            return None
        choices = [each for each in self.versions.loaded if found[2] in (None, str(each.number))]
        if not choices:
            return None
        if found[3] == "/infer":
            return {"POST": partial(self.infer, number=found[2])}
        return {"GET": self.ready if found[3] else self.model}

    async def infer(self, request: Request, number: str | None) -> Reply:
        choices = self.versions.choose(request.id)
        if number:
            choices = [each for each in self.versions.loaded if str(each.number) == number] or choices
        return await self.predictor.infer(request, choices)

    async def model(self, _: Request) -> Reply:
        numbers = [each.number for each in self.versions.loaded]
        return Reply(inference.describe(self.versions.current.version, numbers))

    async def server(self, _: Request) -> Reply:
        return Reply({"name": "lightning-vision-template", "version": "2", "extensions": inference.EXTENSIONS})

    async def live(self, _: Request) -> Reply:
        return Reply({"live": True})

    async def ready(self, _: Request) -> Reply:
        if self.draining:
            raise Refused(503, "the server stops", retry_after="1")
        return Reply({"ready": True})

    async def page(self, _: Request) -> Reply:
        return page(self.versions.current.version, bool(self.settings.keys), self.settings.records is not None)

    async def openapi(self, _: Request) -> Reply:
        return Reply(document(self.versions.current.version, self.settings))

    async def prometheus(self, _: Request) -> Reply:
        self.tick()
        return Reply(self.metrics.text(), media="text/plain; version=0.0.4; charset=utf-8")

    def tick(self) -> None:
        """Update the numbers that others read, and write the log."""
        candidate = self.versions.candidate
        self.metrics.set("version", self.versions.current.number)
        self.metrics.set("candidate", candidate.number if candidate else 0)
        self.metrics.set("drifting", len(self.versions.current.observe.drifting))
        self.metrics.set("in_flight", self.predictor.in_flight)
        self.log.flush()

    async def follow(self) -> None:
        """Follow the versions on disk, for ever."""
        while True:
            await asyncio.sleep(POLL)
            try:
                self.versions.update(*await asyncio.to_thread(self.versions.find))
                self.tick()
            except Exception:
                self.log.bug()
