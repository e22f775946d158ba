"""A state on disk: nested plain values and arrays in one file, replaced in one step.

    header, 64 bytes   8 magic MEGASNAP  2 version  2 byte order  4 reserved  8 payload bytes  4 crc32 of payload
                       20 first bytes of sha256 of the fingerprint  12 reserved  4 crc32 of the 60 bytes before
    payload            a safetensors file; its metadata `state` is the JSON of the plain values

A snapshot is derived: one that is torn, damaged or made by something else is no snapshot. What is in it is checked by
whoever takes it in. Knows nothing of what it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megacontext.errors import StoreError
from nanochat.files import atomic_write

State = dict[str, Any]  # nested; leaves are plain JSON values, tensors and arrays

MAGIC, VERSION, BYTE_ORDER = b"MEGASNAP", 1, 0x0102
HEADER_BYTES = 64
LARGEST = 1 << 32
_HEADER = struct.Struct("<8sHH4xQI20s12x")
_CRC = struct.Struct("<I")
_DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint8: "U8", torch.bool: "BOOL"},
}


def pack(state: State, fingerprint: str) -> bytes:
    """The file's bytes."""
    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors)
    payload = _safetensors(tensors, {"state": json.dumps(plain, allow_nan=False)})
    head = _HEADER.pack(MAGIC, VERSION, BYTE_ORDER, len(payload), zlib.crc32(payload), _digest(fingerprint))
    return head + _CRC.pack(zlib.crc32(head)) + payload


def unpack(data: bytes, fingerprint: str) -> State:
    """The state. Raises ValueError saying why there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    digest, payload = check(data)
    if digest != _digest(fingerprint):
        raise ValueError("another model, tokenizer, number format or setting made it")
    plain = plain_part(payload)
    try:
        return _join(plain, load(payload))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"what it holds makes no sense: {error}") from error


def check(data: bytes) -> tuple[bytes, bytes]:
    """(digest of the fingerprint, payload) of a file that is whole. Raises ValueError saying why it is not."""
    if len(data) < HEADER_BYTES or data[:8] != MAGIC:
        raise ValueError("it is no snapshot")
    _, version, order, length, checksum, digest = _HEADER.unpack_from(data)
    if zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        raise ValueError("its header is damaged")
    if (version, order) != (VERSION, BYTE_ORDER):
        raise ValueError(f"it has version {version}, this program reads {VERSION}")
    payload = data[HEADER_BYTES:]
    if len(payload) != length or zlib.crc32(payload) != checksum:
        raise ValueError("it is torn or damaged")
    return digest, payload


def plain_part(payload: bytes) -> Any:
    """The plain values of a state; where a tensor stood, its name. Raises ValueError if they make no sense."""
    try:
        size = int.from_bytes(payload[:8], "little")
        return json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["state"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"what it holds makes no sense: {error}") from error


def write(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Replace the snapshot by what `pack` made. It survives the process; after a power cut it may be torn, which shows,
    unless it was synced. Raises StoreError when the disk fails.
    """
    try:
        with atomic_write(path, mode=0o600, sync=sync) as file:
            file.write(data)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from error


def read(path: Path, fingerprint: str) -> tuple[State | None, str]:
    """The state, and ""; or None, and why not ("" where there is no file)."""
    try:
        if os.stat(path).st_size > LARGEST:
            return None, "it is larger than any snapshot"
        return unpack(path.read_bytes(), fingerprint), ""
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"it cannot be read ({error.strerror})"
    except ValueError as error:
        return None, str(error)


def _safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file. Its library has a leak: a kilobyte for each size of tensor that it is given for the first
    time, and a view is of another size each time.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        start, end = end, end + len(parts[-1])
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def _digest(fingerprint: str) -> bytes:
    return hashlib.sha256(fingerprint.encode("utf-8")).digest()[:20]


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The plain part; a tensor is replaced by {"#": its name}."""
    if isinstance(value, dict):
        return {key: _split(item, f"{name}.{key}" if name else key, tensors) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"#": name}
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    return tensors[value["#"]] if value.keys() == {"#"} else {key: _join(item, tensors) for key, item in value.items()}
