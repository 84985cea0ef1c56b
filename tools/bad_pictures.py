"""Files that are no pictures, and what becomes of a run that finds one."""

import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from scripts.bad_inputs import refusal
from scripts.processes import PICTURES, SMALL, Process, draw_pictures


def bad_pictures() -> dict[str, bytes | None]:
    """Return the content of files that are no pictures, by name; None for a link to nothing."""
    noise = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    files: dict[str, bytes | None] = {}
    for kind in ("png", "jpg", "gif", "tif", "bmp", "webp", "avif"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind))
        whole = buffer.getvalue()
        files |= {f"a_tenth.{kind}": whole[: len(whole) // 10], f"a_half.{kind}": whole[: len(whole) // 2]}
        if kind == "png":
            middle = len(whole) // 2
            files["wrong_sum.png"] = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
            files["head_alone.png"] = whole[:33]
            size = (30_000).to_bytes(4, "big")
            files["too_large.png"] = whole[:16] + size + size + whole[24:]
        if kind == "jpg":
            files["head_alone.jpg"] = whole[:20]
            files["text_in_front.jpg"] = b"HTTP/1.1 200 OK\r\n\r\n" + whole
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", whole)
    files |= {
        "empty.png": b"",
        "zeros.jpg": bytes(2000),
        "noise.jpg": random.Random(0).randbytes(2000),
        "archive.png": archive.getvalue(),
    }
    files |= {
        "words.png": b"no picture",
        "page.jpg": b"<html>404 not found</html>",
        "drawing.png": b"<svg/>",
        "few.ppm": b"P6 9 9 255\n",
    }
    return files | {"link.png": None}


def pictures(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Files that are no pictures, on_bad_image stop and skip, 0 and 2 workers: named in one line; skip goes on."""
    cases = [(name, policy, workers) for name in bad_pictures() for policy in ("stop", "skip") for workers in (0, 2)]
    draw_pictures(folder / "pictures")
    for name, policy, workers in draw.sample(cases, min(tries, len(cases))):
        file, content = folder / "pictures/train/3" / name, bad_pictures()[name]
        file.symlink_to("nowhere") if content is None else file.write_bytes(content)
        typed = [
            *SMALL[:-1],
            *PICTURES,
            f"--data.num_workers={workers}",
            f"--data.on_bad_image={policy}",
            "--trainer.max_epochs=1",
        ]
        process = Process(["fit", *typed], folder / "runs")
        told = f"cannot decode ../pictures/train/3/{name}: "
        if policy == "stop":
            wrong = refusal(process, told)
        else:
            code, printed = process.wait(), process.log.read_text()
            process.log.unlink()
            said = [line for line in printed.splitlines() if "skipped" in line]
            right = code == 0 and len(said) == 1 and f"skipped 1 of 401 images: {told}" in said[0]
            wrong = "" if right else f"exit code {code}: {printed[:500]}"
        file.unlink()
        yield wrong and f"{name}, {policy}, {workers} workers: {wrong}"
