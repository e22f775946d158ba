"""A session in one file: safetensors with three parts and a manifest. docs/session_export.md has the bytes.

    tokens     U32 (n,)    all ids
    turns      U8          [[start, stop, role], ...], JSON
    messages   U8          the same as text: {"messages": [{"role": ..., "content": ...}, ...]}, UTF-8
    metadata   format, manifest (JSON: name, model, fingerprints, versions, size and sha256 of each part), its sha256

Nothing in it is compressed and nothing names a file, so a reader needs no more memory than the file has bytes, and
writes nowhere. It is untrusted: everything is checked before it is used. What is derived is left out.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from megacontext.errors import ConfigError
from megacontext.session import ROLE, Turn
from megacontext.sessions.messages import messages_json, parse_messages
from megacontext.sessions.transcript import ROLES, Message

FORMAT, VERSION = "megacontext.session.export", 1
LARGEST, LONGEST_HEADER = 1 << 30, 1 << 20  # bytes
PARTS = {"tokens": np.dtype("<u4"), "turns": np.dtype("u1"), "messages": np.dtype("u1")}
LONGEST_TEXT = 256  # characters of a name in the manifest


@dataclass(frozen=True)
class Portable:
    """model: a name to show. weights: the model's fingerprint, or "". fingerprint, vocab: of the tokenizer."""

    name: str
    model: str
    weights: str
    fingerprint: str
    vocab: int
    tokens: np.ndarray
    turns: list[Turn]
    messages: list[Message]


def pack(session: Portable) -> bytes:
    """The file's bytes."""
    from safetensors.numpy import save

    turns = json.dumps(session.turns).encode()
    parts = {
        "tokens": session.tokens.astype("<u4"),
        "turns": np.frombuffer(turns, np.uint8),
        "messages": np.frombuffer(messages_json(session.messages, documents=True), np.uint8),
    }
    manifest = {
        "version": VERSION,
        "name": session.name,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {"name": session.model, "fingerprint": session.weights},
        "tokenizer": {"fingerprint": session.fingerprint, "vocab": session.vocab},
        "versions": {"megacontext": _version(), "python": platform.python_version()},
        "parts": {name: {"bytes": part.nbytes, "sha256": _sha256(part.tobytes())} for name, part in parts.items()},
    }
    text = json.dumps(manifest)
    return save(parts, metadata={"format": FORMAT, "manifest": text, "sha256": _sha256(text.encode())})


def unpack(data: bytes) -> Portable:
    """Raises ValueError saying what is wrong."""
    manifest = _manifest(data)
    parts = _parts(data, manifest)
    tokenizer, model = _object(manifest, "tokenizer"), _object(manifest, "model")
    tokens, vocab = parts["tokens"], tokenizer.get("vocab")
    if type(vocab) is not int or not 0 < vocab <= 1 << 31:
        raise ValueError(f"its vocabulary of {vocab!r} makes no sense")
    if len(tokens) and int(tokens.max()) >= vocab:
        raise ValueError(f"id {int(tokens.max())} is not in its vocabulary of {vocab}")
    return Portable(
        _text(manifest, "name"),
        _text(model, "name"),
        _text(model, "fingerprint"),
        _text(tokenizer, "fingerprint"),
        vocab,
        tokens,
        _turns(parts["turns"].tobytes(), len(tokens)),
        _messages(parts["messages"].tobytes()),
    )


def _manifest(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(LONGEST_HEADER, len(data) - 8):
        raise ValueError("it is no session export: its header is missing or too long")
    try:
        metadata = _object(json.loads(data[8 : 8 + size]), "__metadata__")
        if metadata.get("format") != FORMAT:
            raise ValueError("it is a safetensors file, but no session export")
        text = _text(metadata, "manifest", LONGEST_HEADER)
        if _sha256(text.encode("utf-8", "replace")) != metadata.get("sha256"):
            raise ValueError("its manifest is damaged")
        manifest = json.loads(text)
    except RecursionError:
        raise ValueError("its header makes no sense") from None
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise ValueError(f"it has another version than {VERSION}, which this program reads")
    return manifest


def _parts(data: bytes, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Each part, of the right type and size, with the right hash. The library has checked that they lie in the file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"it is no well-formed safetensors file: {error}") from error
    if found.keys() != PARTS.keys():
        raise ValueError(f"it has the parts {sorted(found)}, not {sorted(PARTS)}")
    told = _object(manifest, "parts")
    for name, part in found.items():
        if part.dtype != PARTS[name] or part.ndim != 1:
            raise ValueError(f"its part {name} is {part.dtype} of shape {part.shape}")
        if {"bytes": part.nbytes, "sha256": _sha256(part.tobytes())} != told.get(name):
            raise ValueError(f"its part {name} is damaged: size or hash differ from the manifest's")
    return found


def _turns(data: bytes, tokens: int) -> list[Turn]:
    try:
        found = [Turn(*turn) for turn in json.loads(data.decode("utf-8"))]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its turns make no sense: {error}") from error
    least = 0
    for number, (start, stop, role) in enumerate(found, 1):
        if not (type(start) is int and type(stop) is int and least <= start <= stop <= tokens):
            raise ValueError(f"its turns make no sense: turn {number} does not lie between {least} and {tokens}")
        if not isinstance(role, str) or not ROLE.fullmatch(role):
            raise ValueError(f"its turns make no sense: turn {number} is of no role")
        least = stop
    return found


def _messages(data: bytes) -> list[Message]:
    try:
        return parse_messages(json.loads(data.decode("utf-8")), roles=ROLES)
    except (ConfigError, ValueError, RecursionError) as error:
        raise ValueError(f"its messages make no sense: {error}") from error


def _object(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"its header has no {key}")
    return found


def _text(value: dict[str, Any], key: str, longest: int = LONGEST_TEXT) -> str:
    found = value.get(key)
    if not isinstance(found, str) or len(found) > longest:
        raise ValueError(f"its header has no {key}, or one that is no text of at most {longest} characters")
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _version() -> str:
    try:
        return version("megacontext")
    except PackageNotFoundError:
        return "source"
