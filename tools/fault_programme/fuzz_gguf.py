"""The parsers of GGUF files, to be fuzzed: the header, the tokenizer that it carries, the tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.fault_programme import toy_model
from tools.fault_programme.fuzz_target import Target, Tree

SIZES = {  # of the toy, under llama.cpp's names
    "block_count": 1,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 32,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
}


def gguf_targets(folder: Path) -> Iterator[Target]:
    """All of them. folder: for their files."""
    yield gguf_header(folder / "model.gguf")
    yield gguf_text(folder / "text.gguf")
    yield gguf_weights(folder / "weights.gguf")


def gguf_header(path: Path) -> Target:
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.gguf_header import read_header

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    scalars = [(0, b"\1"), (4, b"\1\0\0\0"), (6, bytes(4)), (7, b"\1"), (10, bytes(8)), (12, bytes(8))]
    pairs = [text(f"llama.{kind}") + struct.pack("<I", kind) + value for kind, value in scalars]
    pairs += [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("c"),
        text("types") + struct.pack("<IIQ", 9, 5, 3) + struct.pack("<3i", 1, 2, 3),
        text("general.alignment") + struct.pack("<II", 4, 32),
    ]
    info = text("blk.0.attn_q.weight") + struct.pack("<I2QIQ", 2, 4, 2, 0, 0)
    seed = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + info + bytes(64)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        read_header(path)

    words = [b"general.alignment", b"llama", struct.pack("<I", 9), struct.pack("<I", 8), struct.pack("<Q", 1 << 40)]
    return Target("GGUF header", [seed], parse, (ModelFileError, ConfigError), words)


def gguf_text(path: Path) -> Target:
    """Both kinds of tokenizer, as far as the ids of a turn."""
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.load_text import load_text

    pieces = ["<unk>", "<s>", "</s>", "\u2581", *"abcdefgh", "ab", "\u2581a", "<0x0A>"]
    letters = [*toy_model.tokenizer_letters(), "ab", "abc"]
    begin = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True}
    llama = {"model": "llama", "tokens": pieces, "scores": [-float(at) for at in range(len(pieces))], **begin}
    types = [3 if letter in toy_model.SPECIALS else 1 for letter in letters]
    gpt2 = {"model": "gpt2", "pre": "smollm", "tokens": letters, "merges": ["a b", "ab c"], "token_type": types}
    metadata = [{f"tokenizer.ggml.{key}": value for key, value in kind.items()} for kind in (llama, gpt2)]
    metadata[0]["tokenizer.ggml.token_type"] = [2, 3, 3, *[1] * (len(pieces) - 4), 6]
    metadata[1]["tokenizer.chat_template"] = toy_model.TEMPLATE

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        text = load_text(path, 300)
        text.decode([*text.encode("abc <|im_start|>"), *text.chat.user("hello")])

    seeds = [pack_gguf(values) for values in metadata]
    words = [b"llama", b"gpt2", b"smollm", b"llama-bpe", struct.pack("<I", 9), struct.pack("<I", 8), b"tokenizer.ggml."]
    return Target("GGUF tokenizer", seeds, parse, (ModelFileError, ConfigError), words, tree=METADATA)


def gguf_weights(path: Path) -> Target:
    """Configuration, fingerprint and every tensor, dequantised."""
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.gguf import GGUFFile

    names = ("model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.norm")
    shapes = {"token_embd": (8, 32), "blk.0.attn_q": (32, 32), "output_norm": (32,)}
    tensors = [(f"{name}.weight", shape, kind) for (name, shape), kind in zip(shapes.items(), (8, 2, 0), strict=True)]
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in SIZES.items()}}
    metadata |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0, "llama.rope.freq_base": 1e4}

    def parse(data: bytes) -> None:
        path.unlink(missing_ok=True)  # the one before may still be mapped
        path.write_bytes(data)
        file = GGUFFile(path)
        file.config.layers, file.fingerprint, file.quantisations  # noqa: B018 - computed when asked
        for name in names:
            if f"{name}.weight" in file:
                file.shape(f"{name}.weight"), file.tensor(f"{name}.weight")

    seed = pack_gguf(metadata, tensors)
    words = [struct.pack("<I", kind) for kind in (0, 1, 2, 3, 8, 12, 14, 30)] + [b"token_embd.weight", b"linear"]
    return Target("GGUF weights", [seed], parse, (ModelFileError, ConfigError), words, tree=METADATA)


# --- files ---


def pack_gguf(metadata: dict[str, Any], tensors: Sequence[tuple[str, tuple[int, ...], int]] = ()) -> bytes:
    """A file. tensors: name, shape, ggml's number of the type; their bytes are zeros. What GGUF cannot say is text."""
    pairs = b"".join(_text(key) + _value(value) for key, value in metadata.items())
    infos, at = b"", 0
    for name, shape, kind in tensors:
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        infos += _text(name) + dimensions + struct.pack("<IQ", kind, at)
        at += -(-4 * _count(shape) // 32) * 32  # room for any type
    return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + pairs + infos + bytes(at + 32)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    kind, data = _scalar(value)
    if isinstance(value, list) and value:
        kinds, items = zip(*map(_scalar, value), strict=True)
        if len(set(kinds)) == 1:
            return struct.pack("<IIQ", 9, kinds[0], len(items)) + b"".join(items)
    return struct.pack("<I", kind) + data


def _scalar(value: Any) -> tuple[int, bytes]:
    """ggml's number of the type, and the bytes."""
    if isinstance(value, bool):
        return 7, bytes([value])
    if isinstance(value, int) and -(1 << 31) <= value < 1 << 31:
        return 5, struct.pack("<i", value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return 11, struct.pack("<q", value)
    if isinstance(value, float):
        return 12, struct.pack("<d", value)
    return 8, _text(value if isinstance(value, str) else json.dumps(value))


def _load(data: bytes) -> Any:
    """The metadata of a seed, and where they end."""
    from megacontext.models.gguf_header import _Cursor

    seed: Any = data  # bytes are as good as a map
    return _Cursor(Path("seed"), seed).header().metadata


def _dump(data: bytes, value: Any) -> bytes:
    tensors = struct.unpack_from("<Q", data, 8)[0]
    rest = data[len(pack_gguf(_load(data))) - 32 :] if tensors else bytes(32)
    values = value if isinstance(value, dict) else {"general.architecture": value}
    packed = pack_gguf(values)[24:-32]
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(values)) + packed + rest


METADATA = Tree(_load, _dump)
