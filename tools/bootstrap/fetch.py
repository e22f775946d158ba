"""Fetch over HTTP: one file, so that an interrupted download goes on where it stopped and only right bytes arrive.

The bytes grow in `<cache>/<name>.part`; the target appears by one rename, after size and digest were checked.
Nothing here knows about models; a token, where given, is sent to the first host only, never along to another.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tools.bootstrap.step import StepFailed, megabytes

CHUNK = 1 << 20
TIMEOUT_S = 30


class AuthenticationFailed(StepFailed):
    """The server wants a token, or refuses the one it got (401, 403)."""


class Unreachable(StepFailed):
    """Nobody answered, or the line broke."""


@dataclass(frozen=True)
class RemoteFile:
    """A file and the only bytes accepted for it. git_blob: git's name of the content, where no sha256 is known."""

    name: str
    size: int
    sha256: str = ""
    git_blob: str = ""

    @property
    def digest(self) -> str:
        """As a plan shows it."""
        return f"sha256 {self.sha256}" if self.sha256 else f"git blob {self.git_blob}"

    def digest_of(self, path: Path) -> str:
        """The same of what lies at `path`."""
        if self.sha256:
            return f"sha256 {_hexdigest(hashlib.sha256(), path)}"
        header = b"blob %d\0" % path.stat().st_size
        return f"git blob {_hexdigest(hashlib.sha1(header, usedforsecurity=False), path)}"

    def is_at(self, path: Path) -> bool:
        """Whether `path` holds exactly these bytes; the size is looked at first, so most answers are instant."""
        return path.is_file() and path.stat().st_size == self.size and self.digest_of(path) == self.digest


def _hexdigest(digest: hashlib._Hash, path: Path) -> str:
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(url: str, file: RemoteFile, target: Path, cache: Path, token: str | None = None, *, else_: str = "") -> None:
    """Bring `url` to `target`. else_: what to do where the server refuses us. Raises StepFailed with the way out."""
    part = cache / f"{file.name}.part"
    have = part.stat().st_size if part.is_file() else 0
    try:
        cache.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        if have < file.size or not part.is_file():
            _download(url, part, have, file.size, token)
    except urllib.error.HTTPError as error:
        raise http_failure(url, error, token, else_) from error
    except (OSError, http.client.HTTPException) as error:  # URLError, timeouts, resets, a full disk
        kept = part.stat().st_size if part.is_file() else 0
        raise Unreachable(
            f"could not download {url}: {error}. {megabytes(kept)} of {megabytes(file.size)} are kept in {part}; "
            "run the same command again to go on from there."
        ) from error
    _accept(part, file, target, url)


def open_url(url: str, token: str | None = None, *, start: int = 0, timeout: float = TIMEOUT_S) -> IO[bytes]:
    """The response from byte `start` on. The token follows a redirect only to the host that it was meant for."""
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return urllib.request.build_opener(_SameHost).open(request, timeout=timeout)


def http_failure(url: str, error: urllib.error.HTTPError, token: str | None, else_: str = "") -> StepFailed:
    """An answer that is no success, as a failure with the way out. else_ completes 'or ...'."""
    way_out = "HF_TOKEN was sent and refused: check it" if token else "set HF_TOKEN to an access token"
    otherwise = f", or {else_}" if else_ else ""
    if error.code in (401, 403):
        return AuthenticationFailed(
            f"authentication error: {url} answered {error.code}. The way out: {way_out}{otherwise}."
        )
    if error.code == 404:
        return StepFailed(f"not found: {url} answered 404. Check the name{otherwise}.")
    return StepFailed(f"could not download {url}: the server answered {error.code}. Try again later{otherwise}.")


class _SameHost(urllib.request.HTTPRedirectHandler):
    """urllib drops such a header at every redirect; the hub redirects within itself, too."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        again = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        token = req.unredirected_hdrs.get("Authorization")
        if again is not None and token and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
            again.add_unredirected_header("Authorization", token)
        return again


def _download(url: str, part: Path, have: int, size: int, token: str | None) -> None:
    """Append the rest of `url` to `part`. A server that ignores the range starts the file anew."""
    with open_url(url, token, start=have) as response:
        resumed = have > 0 and getattr(response, "status", 200) == 206
        with part.open("ab" if resumed else "wb") as out:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                if out.tell() > size:
                    break  # more than the pinned file holds: the check of the size will refuse it
    if part.stat().st_size < size:
        raise OSError("the connection closed early")


def _accept(part: Path, file: RemoteFile, target: Path, url: str) -> None:
    size, digest = part.stat().st_size, file.digest_of(part)
    if (size, digest) != (file.size, file.digest):
        part.unlink()
        raise StepFailed(
            f"{url} is not the pinned file: got {size} bytes with {digest}, "
            f"expected {file.size} bytes with {file.digest}. It was thrown away."
        )
    os.replace(part, target)
