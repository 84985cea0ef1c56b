"""The server sees the pixels that predict sees, and returns the same probabilities, for files of many kinds."""

import asyncio
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from src.cli import main
from src.commands.serving.app import App
from src.commands.serving.pictures import decode
from src.commands.serving.settings import Settings
from src.data.loading.files_loader import FilesLoader
from tests.conftest import in_folder
from tests.file_kinds import file_kinds
from tests.processes import PICTURES, SMALL, draw_pictures

pytestmark = pytest.mark.heavy
COLOR = [*PICTURES, "--data.root=pictures", "--data.cache=cache", "--data.channels=3"]
COLOR += ["--model.net.image_shape=[3,8,8]"]


@pytest.fixture(scope="module", params=["gray", "color"])
def answers(request, tmp_path_factory):
    """Train on 8 x 8 pixels; return the rows of predict and the replies of the server by file, and their pixels."""
    with in_folder(tmp_path_factory.mktemp(request.param)):
        draw_pictures(Path("pictures"))
        data = COLOR if request.param == "color" else []
        main(["fit", *SMALL, *data, "--trainer.max_epochs=1", "--no_page"])
        files = file_kinds()
        for name, content in files.items():
            Path("sent").mkdir(exist_ok=True)
            Path("sent", name).write_bytes(content)
        batches = []

        def keep(self):
            for batch in iterate(self):
                batches.append(batch)
                yield batch

        iterate = FilesLoader.__iter__
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FilesLoader, "__iter__", keep)
            x = main(["predict", "--run=runs/digits/version_0", "--images=sent", "--output=rows.csv"])
        with Path("rows.csv").open(encoding="utf-8", newline="") as stream:
            rows = {Path(row["image"]).name: row for row in csv.DictReader(stream)}
        main(["export", "--run=runs/digits/version_0"])
        app = App(Settings(Path("models/digits")))
        normalized = np.concatenate([np.asarray(batch) for batch in batches])
        normalize = x.data.normalize
        pixels = normalized * normalize.std.numpy() + normalize.mean.numpy()
        seen = dict(zip(sorted(files), pixels, strict=True))
        replies = {name: asyncio.run(post(app, content)) for name, content in files.items()}
        yield rows, replies, seen, x.data.shape


async def post(app: App, content: bytes) -> dict:
    """Return the reply of the server to a picture."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": content}

    async def send(message):
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)
    assert sent[0]["status"] == 200, sent[1]["body"]
    return json.loads(sent[1]["body"])


def test_the_server_returns_what_predict_writes(answers):
    rows, replies, _, _ = answers
    assert len(rows) == len(replies) >= 40
    for name, reply in replies.items():
        got = np.array([*reply["probabilities"].values()])
        expected = np.array([float(rows[name][label]) for label in reply["probabilities"]])
        assert np.abs(got - expected).max() <= 2e-6, name
        assert reply["prediction"] == rows[name]["prediction"]


def test_the_server_decodes_the_pixels_of_predict(answers):
    _, _, seen, shape = answers
    for name, content in file_kinds().items():
        pixels = decode(content, shape, None, 25_000_000)
        assert np.abs(pixels - seen[name]).max() < 0.01, name
