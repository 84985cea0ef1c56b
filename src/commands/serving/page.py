"""The page at /, of a template in ``src/analysis/web``, which may run only the code and styles written in it."""

import re
from base64 import b64encode
from hashlib import sha256

from src.analysis.page import render
from src.commands.serving.messages import Reply
from src.runs.exports import Version

POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(version: Version, needs_key: bool, records: bool) -> Reply:
    """Return the page, with a policy that names the hashes of its scripts and styles."""
    text = render("serve.html", info=version.info, version=version.number, needs_key=needs_key, records=records)
    policy = POLICY.format(**{tag: hashes(text, tag) for tag in ("script", "style")})
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}
    return Reply(text, media="text/html; charset=utf-8", headers=headers)


def hashes(text: str, tag: str) -> str:
    found = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", text, re.S)
    return " ".join(f"'sha256-{b64encode(sha256(each.encode()).digest()).decode()}'" for each in found) or "'none'"
