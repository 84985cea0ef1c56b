"""Requests for predictions, and for keeping the labels that people give afterwards."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np

from src.commands.serving import inference
from src.commands.serving.feedback import read_feedback, refusal
from src.commands.serving.messages import Refused, Reply, Request
from src.commands.serving.metrics import Metrics
from src.commands.serving.model import Gone, Model, ModelError, Result
from src.commands.serving.pictures import AT_ONCE, FEW_PIXELS, decode, file_in
from src.commands.serving.settings import Settings
from src.commands.serving.versions import Versions
from src.decoding import ImageSizeError
from src.runs.answers import answer
from src.runs.exports import Version
from src.runs.records import Records, record

ALL_BODIES = 32  # times the largest body may be in memory
WITH_PICTURES = ("masks", "images")  # kinds of answers that take long to write


class Predictor:
    """Predictions within the limits of one process."""

    def __init__(self, settings: Settings, versions: Versions, metrics: Metrics) -> None:
        self.settings, self.versions, self.metrics = settings, versions, metrics
        self.records = Records(settings.records, settings.keep_images) if settings.records else None
        self.in_flight, self.held = 0, 0  # requests, bytes of their bodies
        self.threads = ThreadPoolExecutor(os.cpu_count(), "picture")

    async def predict(self, request: Request) -> Reply:
        """POST /predict: a picture, as it is or in a form; see ``src.runs.answers`` for the reply."""
        file = file_in(await self.body(request), request.header(b"content-type"))

        async def predict(model: Model) -> Result:
            pixels = self.decode_at_once(file, model.version)
            if pixels is not None:
                return await model.predict(pixels[None], request.gone)
            result: Result = await self.in_thread(self.decode_and_predict, file, model, request)
            model.batched(1)
            return result

        with self.slot():
            result = await self.first_of(self.versions.choose(request.id), predict, request)
            info, i = result.model.version.info, result.first
            names = {"id": request.id, "model": info["name"], "version": request.version}
            if info["kind"] in WITH_PICTURES:
                found = await self.in_thread(answer, info, result.outputs, i)
            else:
                found = answer(info, result.outputs, i)
            if self.records:
                line = record(found, result.seen, i, **names, run=info.get("run"), kind=info["kind"])
                if not await self.in_thread(self.records.add, line, file):
                    self.metrics.add("records_lost_total")
        return Reply(names | found)

    async def infer(self, request: Request, choices: Sequence[Model]) -> Reply:
        """POST /v2/models/NAME/infer: pixels that the client has decoded and resized."""
        body = await self.body(request)
        version = choices[-1].version
        head, batch = inference.parse(body, request.header(inference.HEADER), version)

        async def predict(model: Model) -> Result:
            return await model.predict(batch, request.gone)

        fits = [each for each in choices if inference.describe(each.version, []) == inference.describe(version, [])]
        with self.slot():
            result = await self.first_of(fits, predict, request)
        rows = slice(result.first, result.first + len(batch))
        outputs = {name: values[rows] for name, values in result.outputs.items()}
        return inference.respond(result.model.version, head, outputs)

    async def feedback(self, request: Request) -> Reply:
        """POST /feedback: the right label of an earlier picture, as {"id": ..., "label": ...}."""
        if request.header(b"content-type").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "feedback must be application/json")  # which foreign pages cannot send
        name, label = read_feedback(await self.body(request))
        versions = [each.version for each in self.versions.loaded]  # one of which gave the answer
        wrong = [reason for version in versions if (reason := refusal(version, label))]
        if len(wrong) == len(versions):
            raise Refused(422, wrong[0])
        assert self.records
        if not await self.in_thread(self.records.feedback, name, label):
            self.metrics.add("records_lost_total")
            raise Refused(503, "the feedback cannot be written: see the log of the server", retry_after="10")
        return Reply({"id": name, "label": label})

    async def body(self, request: Request) -> bytes:
        return await request.body(self.settings.max_body, self.hold)

    def hold(self, size: int) -> bool:
        """Count bytes that are in memory until the reply; tell whether there is room for them."""
        self.held += size
        return self.held <= ALL_BODIES * self.settings.max_body

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Refuse more pictures at a time than allowed; measure how long each takes."""
        if self.in_flight >= self.settings.max_in_flight:
            raise Refused(503, "busy: try again", retry_after="1")
        self.in_flight += 1
        start = perf_counter()
        try:
            yield
        finally:
            self.in_flight -= 1
            self.metrics.predicted(perf_counter() - start)

    def decode_at_once(self, file: bytes, version: Version) -> np.ndarray | None:
        """Return the pixels (C, H, W) of a file, or None if it may take longer than a thread needs to start."""
        if len(file) > AT_ONCE:
            return None
        try:
            scale, most = version.info["input"].get("scale"), self.settings.max_pixels
            return decode(file, version.shape, scale, min(FEW_PIXELS, most))
        except ImageSizeError:
            return None

    def decode_and_predict(self, file: bytes, model: Model, request: Request) -> Result:
        """Do both in this thread: to pass a large picture to the model's thread costs more than a batch saves."""
        scale = model.version.info["input"].get("scale")
        try:
            pixels = decode(file, model.version.shape, scale, self.settings.max_pixels)
        except ImageSizeError as error:
            raise Refused(413, str(error)) from None
        if request.gone():
            raise Gone
        return model.results([pixels[None]])[0]

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *args)

    async def first_of(
        self, models: Sequence[Model], predict: Callable[[Model], Awaitable[Result]], request: Request
    ) -> Result:
        """Return the result of the first model that does not fail."""
        failure = ""
        for model in models:
            start, request.version = perf_counter(), model.number
            try:
                result = await predict(model)
                self.versions.note(model, perf_counter() - start, failed=False)
                return result
            except ModelError as error:
                self.versions.note(model, perf_counter() - start, failed=True)
                self.metrics.add("failures_total")
                failure = str(error)
        raise Refused(500, failure)
