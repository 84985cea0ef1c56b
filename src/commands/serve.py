"""The command ``serve``: answer requests with an exported model."""

import ipaddress
import os
import ssl
import sys
from hashlib import sha256
from pathlib import Path
from socket import AI_PASSIVE, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, getaddrinfo, socket

from src import UserError, require
from src.config.arguments import Options
from src.config.paragraphs import paragraphs
from src.runs.exports import Models
from src.runs.records import Records
from src.runs.summary import echo

try:
    from src.commands.serving.process import BACKLOG, make_server, work
    from src.commands.serving.settings import Settings
    from src.commands.serving.workers import supervise
except ModuleNotFoundError as error:
    raise UserError(f"serve needs {error.name}: pip install -r requirements-serve.lock") from None

SHORTEST_KEY = 16


def run(
    options: Options,
    *,
    models: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    threads: int = 1,
    canary: float = 0.0,
    use: int | None = None,
    rollback: bool = False,
    reject: int | None = None,
    key: Path | None = None,
    certificate: Path | None = None,
    private_key: Path | None = None,
    records: Path | None = None,
    keep_images: bool = False,
    max_megabytes: float = 8.0,
    max_megapixels: float = 25.0,
    max_requests: int = 64,
    drain: float = 5.0,
) -> None:
    """Answer requests with an exported model; without torch.

    The server follows CURRENT: a version that becomes the current one is loaded without losing a request, and one that
    is broken is not.

    Examples:
        python -m src.cli serve models/digits
        python -m src.cli serve models/digits --canary=0.1
        python -m src.cli serve models/digits --rollback

    Args:
        models: the folder of exported versions.
        host: the address to listen on; any but this machine's own needs a key.
        port: 0 for any that is free.
        workers: processes.
        threads: of one process for one call of the model; more than 1 pay for large nets only.
        canary: the share of requests, 0 to 1, that get the newest version after the current one.
        use: make this version the current one, and stop; a running server follows.
        rollback: reject the current version, make the one that was current before it current again, and stop.
        reject: let no server give this version requests as a canary, and stop; --use takes it back.
        key: a file with one key a line, one of which clients must send; by default the variable SERVE_KEY.
        certificate: a PEM file, for HTTPS.
        private_key: the PEM file of its key.
        records: a folder for records of the answers of /predict, and for feedback.
        keep_images: keep the pictures there, too.
        max_megabytes: of one picture file.
        max_megapixels: of one picture.
        max_requests: that are predicted at a time, by one process; others get status 503.
        drain: seconds between a signal to stop and the stop, for those who send requests to notice.
    """
    if {"-h", "--help", "--help-all"} & {*options.settings}:
        usage = "usage: python -m src.cli serve MODELS [--option=value ...]"
        echo("\n".join([usage, "", *paragraphs(options.description)]))
        return
    folder = check_options(options, models)
    if use is not None or rollback or reject is not None:
        switch(folder, use, rollback, reject)
        return
    check_numbers(port=(port, 0, 65535), workers=(workers, 1, 256), threads=(threads, 1, 256), canary=(canary, 0, 1),
                  max_megabytes=(max_megabytes, 0.001, 1024), max_megapixels=(max_megapixels, 0.001, 1000),
                  max_requests=(max_requests, 1, 10_000), drain=(drain, 0, 600))  # fmt: skip
    require(records or not keep_images, "--keep_images needs --records DIR")
    folder.check_current()
    settings = Settings(
        folder.path.absolute(), canary, threads, read_keys(key), records and records.absolute(), keep_images,
        int(max_megabytes * 2**20), int(max_megapixels * 1e6), max_requests, drain, certificate, private_key,
    )  # fmt: skip
    check_certificate(certificate, private_key)
    if records:
        Records(records).prepare()
    with listen(host, port, secured=bool(settings.keys)) as listener:
        server = make_server(settings)  # refuses, before any worker starts, what none of them could load
        announce(folder, settings, host, listener.getsockname()[1])
        if workers > 1:
            del server
            supervise(settings, listener, workers)
        else:
            work(server, listener)


def check_options(options: Options, models: Path | None) -> Models:
    """Return the folder of versions; refuse what serve cannot use."""
    unused = [*options.settings, *(f"--config={each}" for each in options.config), *(["--run"] if options.run else [])]
    unused += ["--trust"] if options.trust else []
    require(not unused, f"serve takes a folder of models and its own options, not {' '.join(unused[:3])}")
    require(models, "serve needs a folder of exported versions: python -m src.cli serve models/NAME")
    return Models.find(models or Path())


def check_numbers(**numbers: tuple[float, float, float]) -> None:
    for name, (value, least, most) in numbers.items():
        require(least <= value <= most, f"--{name} must be from {least} to {most:,}, got {value}")


def switch(folder: Models, use: int | None, rollback: bool, reject: int | None) -> None:
    """Change the current version, or reject one, and say so."""
    typed = [use is not None, rollback, reject is not None]
    require(sum(typed) == 1, "--use, --rollback and --reject choose a version each: type one of them")
    if reject is not None:
        folder.check(reject)
        hint = "withdraw it with --rollback, or choose another with --use N"
        require(reject != folder.current, f"version {reject} is the current one of {folder.path}: {hint}")
        folder.reject(reject, "by --reject")
        echo(f"version {reject} of {folder.path} is rejected; the current one is {folder.current or 'none'}")
        return
    before = folder.current
    reason = folder.rejection(use) if use is not None else None
    version = folder.use(use) if use is not None else folder.roll_back()
    note = f"; version {before} is rejected" if rollback else ""
    note = f"; it was rejected before: {reason}" if reason is not None else note
    echo(f"version {version.number} is now the current one of {folder.path}{note}")


def read_keys(file: Path | None) -> tuple[bytes, ...]:
    """Return the SHA-256 of each key in a file, or of the one in SERVE_KEY."""
    try:
        text = file.read_text(encoding="utf-8") if file else os.environ.get("SERVE_KEY", "")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--key {file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    short = [each for each in keys if len(each) < SHORTEST_KEY or not each.isascii()]
    require(not short, f"a key must have at least {SHORTEST_KEY} characters, all ASCII: try openssl rand -hex 16")
    require(keys or not file, f"--key {file} holds no key: write one in each line")
    return tuple(sha256(each.encode()).digest() for each in keys)


def check_certificate(certificate: Path | None, private_key: Path | None) -> None:
    require(bool(certificate) == bool(private_key), "HTTPS needs both --certificate and --private_key")
    if certificate and private_key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key, lambda: "")
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or str(error)
            raise UserError(f"{certificate} and {private_key} are no PEM certificate and its key: {reason}") from None


def listen(host: str, port: int, secured: bool) -> socket:
    """Return a socket bound to an address; refuse one that others can reach if they need no key."""
    listener = None
    try:
        family, kind, protocol, _, address = getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_PASSIVE)[0]
        listener = socket(family, kind, protocol)
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        if listener:
            listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host}, port {port}: {reason}; choose others with --host and --port"
        ) from None
    if not (secured or ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback):
        listener.close()
        raise UserError(f"others can reach {host}: give clients a key, --key FILE or SERVE_KEY, to serve there")
    listener.listen(BACKLOG)
    return listener


def announce(models: Models, settings: Settings, host: str, port: int) -> None:
    """Print, on stderr, what is served where, and a request to try."""
    info = models.load(models.current or 0).info
    host = f"[{host}]" if ":" in host else host
    address = f"{'https' if settings.certificate else 'http'}://{host}:{port}"
    key = ' -H "X-API-Key: $SERVE_KEY"' if settings.keys else ""
    echo(f"{info['name']}, version {models.current}, a {info['task']}, on {address}", sys.stderr)
    echo(f"  curl --data-binary @picture.png{key} {address}/predict", sys.stderr)
