"""What ``serve`` was told, for each of its processes."""

import hmac
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of the server; every process gets a copy."""

    models: Path
    canary: float = 0.0  # share of the requests
    threads: int = 1
    keys: tuple[bytes, ...] = ()  # SHA-256 of each
    records: Path | None = None
    keep_images: bool = False
    max_body: int = 8 << 20  # bytes
    max_pixels: int = 25_000_000
    max_in_flight: int = 64  # pictures that are decoded or predicted
    drain: float = 5.0  # seconds
    certificate: Path | None = None
    private_key: Path | None = None
    metrics: Path | None = None  # the file of all counters, if there are several workers
    workers: int = 1

    def admits(self, key: str) -> bool:
        """Tell whether a key is known, in a time that does not depend on the key."""
        digest = sha256(key.encode("latin-1", "replace")).digest()
        return sum(hmac.compare_digest(digest, known) for known in self.keys) > 0
