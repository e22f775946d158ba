"""What is fuzzed: a parser, valid inputs, and what it may answer."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Tree(NamedTuple):
    """load: raises ValueError if there is no value. dump: (input, value) -> input."""

    load: Callable[[bytes], Any]
    dump: Callable[[bytes, Any], bytes]


def _with_header(data: bytes, value: Any) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + int.from_bytes(data[:8], "little") :]


JSON = Tree(json.loads, lambda _, value: json.dumps(value).encode())
SAFETENSORS = Tree(lambda data: json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]), _with_header)


@dataclass(frozen=True)
class Target:
    """A parser. share: of all inputs, for those that are slow. words: of its format. sealed: the same bytes with right
    checksums. tree: the JSON value in an input, and the input with another one: half of the changes are made there.
    """

    name: str
    seeds: Sequence[bytes]
    parse: Callable[[bytes], object]
    allowed: tuple[type[BaseException], ...]
    words: Sequence[bytes] = ()
    sealed: Callable[[bytes], bytes] | None = None
    share: float = 1.0
    tree: Tree | None = None


def crc(data: bytes) -> bytes:
    """Four bytes, little-endian."""
    return struct.pack("<I", zlib.crc32(data))
