"""Files that are not images, and what a run that reads one must do."""

import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from tests.processes import PICTURES, SMALL, Process, draw_pictures, refusal


def bad_pictures() -> dict[str, bytes | None]:
    """Return the contents of files that are not images, by name; None for a dangling link."""
    noise = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    files: dict[str, bytes | None] = {}
    for kind in ("png", "jpg", "gif", "tif", "bmp", "webp", "avif"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind))
        content = buffer.getvalue()
        files |= {
            f"first_tenth.{kind}": content[: len(content) // 10],
            f"first_half.{kind}": content[: len(content) // 2],
        }
        if kind == "png":
            middle = len(content) // 2
            files["wrong_checksum.png"] = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
            files["header_only.png"] = content[:33]
            size = (30_000).to_bytes(4, "big")
            files["too_large.png"] = content[:16] + size + size + content[24:]
        if kind == "jpg":
            files["header_only.jpg"] = content[:20]
            files["leading_text.jpg"] = b"HTTP/1.1 200 OK\r\n\r\n" + content
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", content)
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
        "short.ppm": b"P6 9 9 255\n",
    }
    return files | {"link.png": None}


def pictures(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Files that are not images, with stop and skip, 0 and 2 workers: one line names the file, and skip continues."""
    cases = [(name, policy, workers) for name in bad_pictures() for policy in ("stop", "skip") for workers in (0, 2)]
    draw_pictures(folder / "pictures")
    for name, policy, workers in draw.sample(cases, min(tries, len(cases))):
        file, content = folder / "pictures/train/3" / name, bad_pictures()[name]
        file.symlink_to("nowhere") if content is None else file.write_bytes(content)
        args = [f"--data.num_workers={workers}", f"--data.on_bad_image={policy}", "--trainer.max_epochs=1"]
        process = Process(["fit", *SMALL[:-1], *PICTURES, *args], folder / "runs")
        text = f"cannot decode ../pictures/train/3/{name}: "
        wrong = refusal(process, text) if policy == "stop" else skipping(process, f"skipped 1 of 401 images: {text}")
        file.unlink()
        yield wrong and f"{name}, {policy}, {workers} workers: {wrong}"


def skipping(process: Process, expected: str) -> str:
    """Return what is wrong with how a process skips an image: nothing if it succeeds and one line says so."""
    code, output = process.wait(), process.log.read_text(encoding="utf-8")
    process.log.unlink()
    lines = [line for line in output.splitlines() if "skipped" in line]
    right = code == 0 and len(lines) == 1 and expected in lines[0]
    return "" if right else f"exit code {code}: {output[:500]}"
