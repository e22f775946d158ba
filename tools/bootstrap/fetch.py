"""Fetch one file over HTTP so that an interrupted download goes on where it stopped, and only right bytes arrive.

The bytes grow in `<cache>/<name>.part`; the target appears by one rename, after size and sha256 were checked.
Nothing here knows about models; a token, where given, is sent to the first host only, never along a redirect.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tools.bootstrap.step import StepFailed, file_sha256, megabytes

CHUNK = 1 << 20
TIMEOUT_S = 30


@dataclass(frozen=True)
class RemoteFile:
    """A file and the only bytes accepted for it."""

    name: str
    size: int
    sha256: str


def fetch(url: str, file: RemoteFile, target: Path, cache: Path, token: str | None = None) -> None:
    """Bring `url` to `target`. Raises StepFailed with what, where and how to go on."""
    cache.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = cache / f"{file.name}.part"
    have = part.stat().st_size if part.is_file() else 0
    try:
        if have < file.size:
            _download(url, part, have, file.size, token)
    except urllib.error.HTTPError as error:
        raise StepFailed(_http_reason(url, error.code, token)) from error
    except OSError as error:  # URLError, timeouts, resets, a full disk
        kept = part.stat().st_size if part.is_file() else 0
        raise StepFailed(
            f"could not download {url}: {error}. {megabytes(kept)} of {megabytes(file.size)} are kept in {part}; "
            "run the same command again to go on from there."
        ) from error
    _accept(part, file, target, url)


def _download(url: str, part: Path, have: int, size: int, token: str | None) -> None:
    """Append the rest of `url` to `part`. A server that ignores the range starts the file anew."""
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        resumed = have > 0 and response.status == 206
        with part.open("ab" if resumed else "wb") as out:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                if out.tell() > size:
                    break  # more than the pinned file holds: the check of the size will refuse it
    if part.stat().st_size < size:
        raise OSError("the connection closed early")


def _accept(part: Path, file: RemoteFile, target: Path, url: str) -> None:
    size, digest = part.stat().st_size, file_sha256(part)
    if (size, digest) != (file.size, file.sha256):
        part.unlink()
        raise StepFailed(
            f"{url} is not the pinned file: got {size} bytes with sha256 {digest}, "
            f"expected {file.size} bytes with {file.sha256}. It was thrown away."
        )
    os.replace(part, target)


def _http_reason(url: str, code: int, token: str | None) -> str:
    if code in (401, 403):
        way_out = "HF_TOKEN was sent and refused: check it" if token else "set HF_TOKEN to an access token"
        return f"authentication error: {url} answered {code}. The way out: {way_out}, or use --source pypi."
    return f"could not download {url}: the server answered {code}."
