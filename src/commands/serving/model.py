"""One version of a model, ready to predict: one call of onnxruntime for all pictures that wait."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from src import UserError, require
from src.runs.answers import answer
from src.runs.exports import Version, import_onnxruntime

onnxruntime = import_onnxruntime()

LARGEST_BATCH = 256  # pictures
Outputs = dict[str, np.ndarray]  # each of a batch, the first dimension is N


class ModelError(Exception):
    """A model that fails on a picture, or that returns NaN."""


class Gone(Exception):  # noqa: N818  # nobody sees it
    """The client has closed the connection."""


@dataclass
class Result:
    """What the model returned for a batch, in which the pictures of a request begin at ``first``."""

    model: "Model"
    outputs: Outputs
    seen: Any  # what ``observe`` returned
    first: int = 0


@dataclass
class Waiting:
    """Pictures (N, C, H, W), uint8, of one request."""

    pixels: np.ndarray
    gone: Callable[[], bool]
    future: asyncio.Future[Result]

    def finish(self, result: Result | Exception) -> None:
        if self.future.done():  # cancelled
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


@dataclass(eq=False)
class Model:
    """A version and its thread, which ends once nothing refers to the model any more."""

    version: Version
    session: Any
    observe: Any = lambda *_: None  # a Watch, which sees each batch, in its thread
    batched: Callable[[int], None] = lambda _: None  # called with the size of each batch
    waiting: deque[Waiting] = field(default_factory=deque)
    running: bool = False
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "model"))

    @property
    def number(self) -> int:
        return self.version.number

    @classmethod
    def load(cls, version: Version, threads: int = 1, *hooks: Any) -> "Model":
        """Load a version and predict a black picture; refuse one that cannot, or whose outputs are not as declared."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        require(version.model.suffix == ".onnx", f"{version.model} is no ONNX file: export it with --format onnx")
        try:
            session = onnxruntime.InferenceSession(str(version.model), options, providers=["CPUExecutionProvider"])
            model = cls(version, session, *hooks)
            outputs = model.compute(np.zeros((1, *version.shape), np.uint8))
            right = all(outputs[each["name"]].shape == (1, *each["shape"]) for each in version.info["outputs"])
            answer(version.info, outputs, 0)  # raises if there are other classes than outputs
        except Exception as error:  # onnxruntime raises any
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{version.model} cannot be used ({reason}): export it again") from None
        require(right, f"{version.model} does not return what model.json says: export it again")
        return model

    def compute(self, pixels: np.ndarray) -> Outputs:
        """Return the outputs for pictures (N, C, H, W), uint8."""
        first = self.session.get_inputs()[0]
        if first.shape[0] == 1 and len(pixels) > 1:  # exported for single pictures
            each = [self.compute(pixels[i : i + 1]) for i in range(len(pixels))]
            return {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}
        names = [each["name"] for each in self.version.info["outputs"]]
        return dict(zip(names, self.session.run(names, {first.name: pixels}), strict=True))

    async def predict(self, pixels: np.ndarray, gone: Callable[[], bool] = lambda: False) -> Result:
        """Return the result of a batch that contains these pictures (N, C, H, W).

        Raises:
            ModelError: the model fails on one of these pictures.
            Gone: the client left before the model started.
        """
        each = Waiting(pixels, gone, asyncio.get_running_loop().create_future())
        self.waiting.append(each)
        if not self.running:
            self.start()
        return await each.future

    def start(self) -> None:
        """Let the thread predict what waits, if anything does; it never waits for more."""
        batch: list[Waiting] = []
        size = 0
        while self.waiting and (not batch or size + len(self.waiting[0].pixels) <= LARGEST_BATCH):
            each = self.waiting.popleft()
            if each.gone():
                each.finish(Gone())
            else:
                batch.append(each)
                size += len(each.pixels)
        self.running = bool(batch)
        if batch:
            self.batched(size)
            self.thread.submit(self.run, batch, asyncio.get_running_loop())

    def run(self, batch: list[Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """Predict a batch; if the model fails, its requests alone, so that only those fail that must."""
        found: Sequence[Result | Exception]
        try:
            found = self.results([each.pixels for each in batch])
        except Exception as error:
            found = [error] if len(batch) == 1 else [self.alone(each) for each in batch]
        loop.call_soon_threadsafe(self.deliver, batch, found)

    def alone(self, each: Waiting) -> Result | Exception:
        try:
            return self.results([each.pixels])[0]
        except Exception as error:
            return error

    def results(self, batch: list[np.ndarray]) -> list[Result]:
        """Predict several pictures (N, C, H, W) at once; any thread may call this."""
        pixels = np.concatenate(batch)
        try:
            outputs = self.compute(pixels)
        except Exception as error:  # onnxruntime raises any
            raise ModelError(f"the model failed: {' '.join(str(error).split())[:200]}") from None
        floats = [values for values in outputs.values() if values.dtype.kind == "f"]
        if self.version.info["kind"] != "values" and not all(np.isfinite(values).all() for values in floats):
            raise ModelError("the model returned NaN or infinity")
        seen = self.observe(pixels, outputs)
        firsts = accumulate(map(len, batch), initial=0)
        return [Result(self, outputs, seen, first) for _, first in zip(batch, firsts, strict=False)]

    def deliver(self, batch: list[Waiting], found: Sequence[Result | Exception]) -> None:
        self.start()
        for each, result in zip(batch, found, strict=True):
            each.finish(result)
