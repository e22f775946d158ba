"""The Hugging Face hub, as far as provisioning asks it: where it is, who we are, which files a model has.

HF_ENDPOINT and HF_TOKEN count. What the hub answers is checked before it names a path or a size.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from tools.bootstrap.fetch import TIMEOUT_S, RemoteFile, Unreachable, http_failure, open_url
from tools.bootstrap.step import StepFailed

DEFAULT_ENDPOINT = "https://huggingface.co"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
MOST_BYTES = 1 << 24  # of a listing
MODEL_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
)
WEIGHTS = (  # the first kind that is there
    re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"),
    re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin(\.index\.json)?"),
)

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The files of a model that we want, at one revision."""

    model: str
    revision: str
    files: tuple[RemoteFile, ...]

    def url(self, file: RemoteFile) -> str:
        return f"{endpoint()}/{self.model}/resolve/{self.revision}/{file.name}"


def endpoint() -> str:
    """The hub's address, without a slash at its end."""
    found = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT_ENDPOINT
    if "@" in found:
        raise StepFailed("HF_ENDPOINT must not carry a user or a password; HF_TOKEN is what says who you are")
    if not re.match(r"https?://[^/]", found):
        raise StepFailed(f"HF_ENDPOINT is {found!r}; it must begin with https:// (or be unset for {DEFAULT_ENDPOINT})")
    return found


def token() -> str | None:
    """HF_TOKEN, if one is set."""
    found = os.environ.get("HF_TOKEN", "").strip()
    if not (found.isascii() and found.isprintable()):
        raise StepFailed("HF_TOKEN holds characters that no token has: set it anew, or unset it")
    return found or None


def list_model(model: str, timeout: float = TIMEOUT_S) -> Listing:
    """Ask the hub for a model's files. Raises AuthenticationFailed, Unreachable, or StepFailed for any other reason."""
    url, ours = f"{endpoint()}/api/models/{model}?blobs=true", token()
    try:
        with open_url(url, ours, timeout=timeout) as response:
            body = response.read(MOST_BYTES)
    except urllib.error.HTTPError as error:
        unknown = "check the name: the hub answers so for a model that does not exist, too"
        raise http_failure(url, error, ours, unknown if error.code in (401, 403) else "") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last one: no host can be called so
        reason = getattr(error, "reason", error)
        raise Unreachable(f"the hub cannot be reached: {endpoint()} ({reason})") from error
    return _listing(model, body)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` gives, if it is done in time: looking up a name can hang for longer than any timeout."""
    outcome: list[tuple[T | None, BaseException | None]] = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # handed on to the caller's thread
            outcome.append((None, error))

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise Unreachable(f"the hub cannot be reached: {endpoint()} did not answer within {seconds:g} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _listing(model: str, body: bytes) -> Listing:
    try:
        answer = json.loads(body)
        entries = {entry["rfilename"]: entry for entry in answer["siblings"]}
        files = tuple(_remote_file(entries[name]) for name in wanted(list(entries)))
        revision = str(answer["sha"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StepFailed(f"{endpoint()} does not answer as a hub does: {type(error).__name__}: {error}") from None
    if not re.fullmatch(r"[0-9a-f]{7,64}", revision):
        raise StepFailed(f"{endpoint()} does not answer as a hub does: the revision is {revision[:80]!r}")
    names = [file.name for file in files]
    if "config.json" not in names or not any(kind.fullmatch(name) for kind in WEIGHTS for name in names):
        raise StepFailed(
            f"{model} is no model that can be read here: config.json and *.safetensors or pytorch_model.bin "
            f"are needed, it has {', '.join(sorted(entries)[:20]) or 'no files'}"
        )
    return Listing(model, revision, files)


def wanted(names: list[str]) -> list[str]:
    """Of all files of a model: configuration, tokenizer, and one kind of weights. None of a folder below."""
    kinds = [[name for name in sorted(names) if kind.fullmatch(name)] for kind in WEIGHTS]
    return [name for name in MODEL_FILES if name in names] + next((found for found in kinds if found), [])


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    """Files in LFS are known by their sha256, the others by git's name of their content."""
    name, size, lfs = entry["rfilename"], entry["size"], entry.get("lfs")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"the size of {name} is {size!r}")
    if lfs:
        return RemoteFile(name, size, sha256=_hex(lfs["sha256"], 64))
    return RemoteFile(name, size, git_blob=_hex(entry["blobId"], 40))


def _hex(value: object, digits: int) -> str:
    if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", str(value)):
        raise ValueError(f"{str(value)[:80]!r} is no digest of {digits} hex digits")
    return str(value)
