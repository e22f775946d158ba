"""Whether a model's files are whole, as far as their headers tell: formats, sizes, and the tokenizer beside them.

No tensor is read, and torch is not needed, but for finding the tokenizer of a nanochat checkpoint. Whether a family is
supported is the loaders' business.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from megacontext.errors import MegaContextError
from megacontext.models.gguf_header import read_header
from tools.bootstrap.demo_model import GGUF

LONGEST_HEADER = 100_000_000  # bytes; what the safetensors format allows


class Unusable(Exception):
    """A file is missing or damaged; the message says which."""


def weights_of(path: Path) -> str:
    """A phrase that says what is there. Raises Unusable."""
    try:
        if path.is_file():
            return _gguf(path)
        if (path / "config.json").is_file():
            return _folder(path)
        if checkpoints := [*path.glob("model_*.pt"), *path.glob("*/model_*.pt")]:
            return _zipped(checkpoints, "nanochat checkpoint")
    except OSError as error:
        raise Unusable(f"{error.filename or path} cannot be read ({error.strerror})") from None
    raise Unusable(f"{path} is no model: neither a .gguf file, nor a folder with config.json or model_*.pt")


def tokenizer_of(path: Path) -> str:
    """A phrase that says which tokenizer is there. Raises Unusable."""
    try:
        if path.is_file():
            return _gguf_tokenizer(path)
        return _folder_tokenizer(path) if (path / "config.json").is_file() else _nanochat_tokenizer(path)
    except OSError as error:
        raise Unusable(f"{error.filename or path} cannot be read ({error.strerror})") from None


def seed_of(path: Path) -> int | None:
    """The seed of a model that bootstrap made up; None for any other."""
    try:
        seed = _json(path / "config.json").get("megacontext_seeded")
    except (OSError, Unusable):
        return None
    return seed if isinstance(seed, int) else None


# --- GGUF ---


def _gguf(path: Path) -> str:
    header = _gguf_header(path)
    last = header.data + max((info.offset for info in header.tensors.values()), default=0)
    size = path.stat().st_size
    if last >= size or not header.tensors:
        raise Unusable(f"{path} is cut off: {size:,} bytes, its last tensor begins at byte {last:,}")
    if path.name == GGUF.name and not GGUF.is_at(path):
        raise Unusable(f"{path} is not the demo model that bootstrap brings: other bytes than {GGUF.digest[:23]}...")
    return f"{path.name}, GGUF, {len(header.tensors)} tensors, {size / 1e6:.0f} MB"


def _gguf_tokenizer(path: Path) -> str:
    tokens = _gguf_header(path).metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise Unusable(f"{path} carries no tokenizer (tokenizer.ggml.tokens)")
    return f"{len(tokens):,} tokens, in the GGUF file"


def _gguf_header(path: Path) -> Any:
    try:
        return read_header(path)
    except MegaContextError as error:
        raise Unusable(str(error)) from None


# --- a folder as the hub has them ---


def _folder(path: Path) -> str:
    family = _json(path / "config.json").get("model_type")
    if shards := _shards(path, "model.safetensors.index.json", "*.safetensors"):
        for shard in shards:
            _check_safetensors(shard)
        return f"{path.name}, {family}, safetensors, {_megabytes(shards)}"
    if shards := _shards(path, "pytorch_model.bin.index.json", "pytorch_model*.bin"):
        return _zipped(shards, f"{path.name}, {family}, pytorch_model.bin")
    raise Unusable(f"{path} has no weights: neither *.safetensors nor pytorch_model.bin")


def _shards(path: Path, index: str, pattern: str) -> list[Path]:
    """The files that an index names, which must all be there; without an index those that fit the pattern."""
    if not (path / index).is_file():
        return sorted(path.glob(pattern))
    named = _json(path / index).get("weight_map")
    files = [path / str(name) for name in sorted(set(named.values()))] if isinstance(named, dict) else []
    absent = [file.name for file in files if not file.is_file()]
    if absent or not files:
        raise Unusable(f"{path / index} names files that are not there: {', '.join(absent) or 'none at all'}")
    return files


def _check_safetensors(path: Path) -> None:
    """The header's length, its JSON, and that the last tensor ends where the file does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise Unusable(f"{path} is cut off, or no safetensors file: {size:,} bytes, a header of {length:,}")
        header = file.read(length)
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise Unusable(f"{path}: the header is no safetensors header") from None
    if end != size:
        raise Unusable(f"{path} is cut off: {size:,} bytes, its header speaks of {end:,}")


def _zipped(files: list[Path], what: str) -> str:
    """torch's own format is a zip file, whose directory stands at its end: a file that was cut off has none."""
    for file in files:
        if not zipfile.is_zipfile(file):
            raise Unusable(f"{file} is cut off, or in torch's format from before 1.6")
    return f"{what}, {_megabytes(files)}"


def _folder_tokenizer(path: Path) -> str:
    if (path / "tokenizer.json").is_file():
        model = _json(path / "tokenizer.json").get("model")
        if not isinstance(model, dict) or not model.get("vocab"):
            raise Unusable(f"{path / 'tokenizer.json'} holds no vocabulary")
        return f"{len(model['vocab']):,} tokens, tokenizer.json"
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return f"{len(_json(path / 'vocab.json')):,} tokens, vocab.json and merges.txt"
    raise Unusable(f"{path} has no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt")


def _nanochat_tokenizer(path: Path) -> str:
    from nanochat.checkpoint_manager import find_tokenizer

    try:
        return f"nanochat, {find_tokenizer(path)}"
    except FileNotFoundError as error:
        raise Unusable(str(error)) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{path} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise Unusable(f"{path} is no JSON object")
    return found


def _megabytes(files: list[Path]) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
