"""Where the real text comes from: the sample corpus that bootstrap assembles, or any files. Nothing is fetched."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError, MissingAsset
from megacontext.evaluation.tasks.base import Document

FORMAT = 1
BOOTSTRAP = "python tools/bootstrap_env.py"


@dataclass(frozen=True)
class Corpus:
    """Documents, and the sha256 of each file they came from (of its text, where the file is compressed)."""

    documents: tuple[Document, ...]
    files: dict[str, str]


def load_corpus(sample: Path, texts: Sequence[Path] = ()) -> Corpus:
    """The documents of `texts`, each file one, or else of the sample corpus.

    Raises MissingAsset if the sample corpus is not there or not whole, ConfigError for a text that cannot be read.
    """
    if not texts:
        return _sample(sample)
    documents = tuple(map(_document, texts))
    return Corpus(documents, {document.title: document.sha256 for document in documents})


def _document(path: Path) -> Document:
    """One file, .gz or not. Bytes that are no UTF-8 become U+FFFD."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--text {path}: cannot be read ({reason}); name a text file, or one packed as .gz"
        ) from error
    if not data.strip():
        raise ConfigError(f"--text {path}: the file is empty")
    return Document(path.name, data.decode("utf-8", "replace"), hashlib.sha256(data).hexdigest())


def _sample(path: Path) -> Corpus:
    manifest = _manifest(path.with_suffix(".json"))
    try:
        body = path.read_bytes()
    except OSError as error:
        raise MissingAsset(f"no sample corpus at {path}; `{BOOTSTRAP}` makes it, or name a --text FILE") from error
    digest = hashlib.sha256(body).hexdigest()
    if digest != manifest.get("sha256"):
        raise MissingAsset(f"{path} is not the file its manifest describes; `{BOOTSTRAP}` makes it again")
    entries = [(str(entry["title"]), body[entry["start"] : entry["end"]]) for entry in manifest["documents"]]
    documents = (Document(title, data.decode(), hashlib.sha256(data).hexdigest()) for title, data in entries)
    return Corpus(tuple(documents), {path.name: digest})


def _manifest(path: Path) -> dict[str, Any]:
    """What the corpus consists of: {sha256, documents: [{title, start, end}] in bytes, format}."""
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise MissingAsset(f"no sample corpus at {path}; `{BOOTSTRAP}` makes it, or name a --text FILE") from error
    except ValueError as error:
        raise MissingAsset(f"{path} is no JSON ({error}); `{BOOTSTRAP}` makes it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not manifest.get("documents"):
        raise MissingAsset(f"{path} is no corpus manifest of format {FORMAT}; `{BOOTSTRAP}` makes it again")
    return manifest
