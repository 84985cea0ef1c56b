"""The servers that people write by hand, for comparison: python -m tools.servers fastapi|litserve RUN PORT."""

import io
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src import load_run
from src.decoding import decode

try:
    import litserve as ls
    from fastapi import Request
except ImportError:
    ls, Request = None, Any  # type: ignore[assignment,misc]


class Model:
    """A trained classifier in PyTorch that takes the bytes of one picture."""

    def __init__(self, run: str) -> None:
        torch.set_num_threads(1)
        self.task, self.data = load_run(run)

    def read(self, content: bytes) -> Tensor:
        return torch.from_numpy(decode(io.BytesIO(content), self.data.shape))[None]  # type: ignore[arg-type]

    @torch.inference_mode()
    def classify(self, images: Tensor) -> Tensor:
        return self.task(self.data.normalize(images)).softmax(1)  # type: ignore[no-any-return]

    def answer(self, row: Tensor) -> dict[str, Any]:
        best = int(row.argmax())
        names = self.data.class_names
        return {"prediction": names[best], "probabilities": dict(zip(names, row.tolist(), strict=True))}


def fastapi(run: str, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI, Request

    app, model = FastAPI(), Model(run)

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return model.answer(model.classify(model.read(await request.body()))[0])

    predict.__annotations__["request"] = Request
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def litserve(run: str, port: int) -> None:
    server = ls.LitServer(API(run), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


class API(ls.LitAPI if ls else object):  # type: ignore[misc]
    """A form with one file in, the answer as JSON out; a process of its own gets a copy of it."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.model = Model(self.run)

    def decode_request(self, request: Request) -> Tensor:
        return self.model.read(request["file"].file.read())

    def predict(self, images: Tensor) -> Tensor:
        return self.model.classify(images)[0]

    def encode_response(self, output: Tensor) -> dict[str, Any]:
        return self.model.answer(output)


if __name__ == "__main__":
    kind, run, port = sys.argv[1:]
    {"fastapi": fastapi, "litserve": litserve}[kind](str(Path(run)), int(port))
