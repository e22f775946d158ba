"""A made-up model of the shape of sshleifer/tiny-gpt2: random weights from a seed, and a tokenizer of plain bytes.

It knows no language. It is there so that everything around a model can run and be checked where no hub can be reached.
The bytes are the same on every machine and Python: they come from SHAKE-256 by sums and products alone.

With two dimensions a layer norm answers nearly the same for all that is larger than the root of its epsilon. So what
enters the residual stream is small (.004 and less), and the last norm's weight is large in return. Printable characters
lie on a circle, where each of them is the likeliest somewhere: the model's text is readable, and does not stand still.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

from tools.bootstrap.fetch import RemoteFile

SEED = 42
WIDTH, LAYERS, HEADS, POSITIONS, VOCAB = 2, 2, 2, 1024, 50257
END_OF_TEXT = 256  # after the 256 bytes
FILES = (
    RemoteFile("config.json", 428, "d32de48db71abebcb6cc78bea31cc38be70d3d260c77b2847e7b3e5671680d58"),
    RemoteFile("tokenizer.json", 4_562, "c9978d63239e7e5b7d4957c72f06f083b8cc1836ab1b95e9b131c181a6badf4e"),
    RemoteFile("model.safetensors", 413_464, "12262c94db0ed16104634226ad45a51b80a8e1760d20bb4aa19a170cf2f10e18"),
)

RADIUS = 0.004  # of the circle; scale of positions
ADDED = 0.002  # scale of what a layer adds
OTHERS = 0.0005  # ids that are no printable character
LAST_NORM = (200.0, 140.0)  # weight, bias
PRINTABLE = range(32, 127)

Rows = list[list[float]]


def write(folder: Path) -> None:
    """Into `folder`; each file by one rename."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents().items():
        partial = folder / f"{name}.part"
        partial.write_bytes(data)
        os.replace(partial, folder / name)


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds exactly this model."""
    return all(file.is_at(folder / file.name) for file in FILES)


def contents() -> dict[str, bytes]:
    """The files' bytes by name."""
    return {
        "config.json": _json(config()),
        "tokenizer.json": _json(tokenizer()),
        "model.safetensors": safetensors(weights()),
    }


def config() -> dict[str, object]:
    """As transformers writes it, and `megacontext_seeded`: whoever reads the folder can tell that it is made up."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "megacontext_seeded": SEED,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "bos_token_id": END_OF_TEXT,
        "embd_pdrop": 0.0,
        "eos_token_id": END_OF_TEXT,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": POSITIONS,
        "n_embd": WIDTH,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_positions": POSITIONS,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vocab_size": VOCAB,
    }


def tokenizer() -> dict[str, object]:
    """Byte-level BPE without a merge, in the tokenizers library's format: id = byte, then the end of text."""
    end = {"id": END_OF_TEXT, "content": "<|endoftext|>", "special": True, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [end | {"single_word": False, "lstrip": False, "rstrip": False}],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {**byte_letters(), "<|endoftext|>": END_OF_TEXT}, "merges": []},
    }


def byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: printable Latin-1 stands for itself, the others follow from U+0100."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in itself]
    letters = {byte: chr(byte) for byte in itself} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return {letters[byte]: byte for byte in range(256)}


def weights() -> dict[str, Rows]:
    """By GPT-2's names; matrices are (in, out). The head is the token embedding."""
    found = {"transformer.wte.weight": _embedding(), "transformer.wpe.weight": normal("wpe", POSITIONS, WIDTH, RADIUS)}
    for i in range(LAYERS):
        at = f"transformer.h.{i}"
        found |= _norm(f"{at}.ln_1") | _norm(f"{at}.ln_2")
        found |= _linear(f"{at}.attn.c_attn", WIDTH, 3 * WIDTH, 1.0) | _linear(f"{at}.attn.c_proj", WIDTH, WIDTH, ADDED)
        found |= _linear(f"{at}.mlp.c_fc", WIDTH, 4 * WIDTH, 1.0) | _linear(f"{at}.mlp.c_proj", 4 * WIDTH, WIDTH, ADDED)
    return found | _norm("transformer.ln_f", *LAST_NORM)


def normal(name: str, rows: int, columns: int, scale: float) -> Rows:
    """Near enough to normal: each value the sum of twelve uniform ones."""
    count = rows * columns
    raw = struct.unpack(f"<{12 * count}H", hashlib.shake_256(f"{SEED} {name}".encode()).digest(24 * count))
    values = [scale * ((sum(raw[i : i + 12]) - 6 * 65535) / 65536) for i in range(0, 12 * count, 12)]
    return [values[i : i + columns] for i in range(0, count, columns)]


def safetensors(tensors: dict[str, Rows]) -> bytes:
    """Eight bytes of length, a JSON header, float32 little-endian. A single row is a vector."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts, end = [], 0
    for name, rows in tensors.items():
        values = [value for row in rows for value in row]
        shape = [len(rows), len(rows[0])] if len(rows) > 1 else [len(values)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end := end + 4 * len(values)]}
        parts.append(struct.pack(f"<{len(values)}f", *values))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def _embedding() -> Rows:
    rows = normal("wte", VOCAB, WIDTH, OTHERS)
    order = sorted(zip(normal("circle", len(PRINTABLE), 1, 1.0), PRINTABLE, strict=True))
    for place, (_, byte) in enumerate(order):
        rows[byte] = [RADIUS * part for part in _on_circle(4 * place / len(order))]
    return rows


def _on_circle(quarters: float) -> tuple[float, float]:
    """A point of the unit circle, without a sine, which differs in its last digit from machine to machine."""
    whole, s = divmod(quarters, 1)
    x, y = (1 - s * s) / (1 + s * s), 2 * s / (1 + s * s)
    return ((x, y), (-y, x), (-x, -y), (y, -x))[int(whole)]


def _linear(name: str, rows: int, columns: int, scale: float) -> dict[str, Rows]:
    return {f"{name}.weight": normal(name, rows, columns, scale), f"{name}.bias": [[0.0] * columns]}


def _norm(name: str, weight: float = 1.0, bias: float = 0.0) -> dict[str, Rows]:
    return {f"{name}.weight": [[weight] * WIDTH], f"{name}.bias": [[bias] * WIDTH]}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
