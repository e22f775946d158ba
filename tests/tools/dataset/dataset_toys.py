"""A project folder with texts, a tiny GPT-2 and a configuration; and its data set as lists of integers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tools.bootstrap import seeded_gpt2

MODEL = "artifacts/models/toy"
SIZES = {"block_size": 4, "context_tokens": 16, "context_stride": 8, "horizon": 8}


def project(
    root: Path, texts: dict[str, str], *, suffix: str = ".safetensors", split: dict[str, Any] | None = None, **keys: Any
) -> Path:
    """Writes all of it, returns the configuration. The tokenizer gives one id a byte. keys: of the data set."""
    model = root / MODEL
    model.mkdir(parents=True, exist_ok=True)
    seeded_gpt2.write(model)
    for name, text in texts.items():
        file = root / "texts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    train = {"source": "../texts/**/*.txt", "output_path": f"../data/toy/train{suffix}", **(split or {})}
    dataset = {"dataset_name": "toy", "tokenizer": MODEL, **SIZES, "splits": {"train": train}, **keys}
    return write(root, {"dataset": dataset})


def write(root: Path, values: dict[str, Any], name: str = "toy") -> Path:
    file = root / "configs" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def edit(config: Path, **keys: Any) -> None:
    """Change keys of the data set."""
    values = yaml.safe_load(config.read_text())
    values["dataset"] |= keys
    config.write_text(yaml.safe_dump(values, sort_keys=False))


def byte_ids() -> dict[int, int]:
    """Byte -> id, by the toy's own tokenizer.json."""
    vocab = seeded_gpt2.tokenizer()["model"]["vocab"]  # type: ignore[index]
    return {byte: vocab[letter] for letter, byte in letters().items()}


def letters() -> dict[str, int]:
    """GPT-2's letters for bytes, written down a second time: printable Latin-1, then U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


Example = tuple[list[int], list[int]]  # context, future


def expected(
    documents: Sequence[Sequence[int]],
    *,
    block_size: int,
    context_tokens: int,
    context_stride: int,
    horizon: int,
    max_tokens: int | None = None,
) -> list[Example]:
    """The rules word by word, on lists of blocks: whole blocks, the block that reaches max_tokens is the last."""
    found: list[Example] = []
    consumed = 0
    for ids in documents:
        blocks: list[list[int]] = []
        for start in range(0, len(ids), block_size):
            block = list(ids[start : start + block_size])
            if len(block) < block_size or (max_tokens is not None and consumed >= max_tokens):
                break
            blocks.append(block)
            consumed += block_size
        per_context, per_future = context_tokens // block_size, horizon // block_size
        for start in range(0, len(blocks) - per_context - per_future + 1, context_stride // block_size):
            context = blocks[start : start + per_context]
            future = blocks[start + per_context : start + per_context + per_future]
            found.append((flat(context), flat(future)))
    return found


def flat(lists: Iterable[list[int]]) -> list[int]:
    return [item for one in lists for item in one]


def metadata(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "data/toy/metadata.yaml").read_text())


def output_json(text: str) -> dict[str, Any]:
    return json.loads(text)["splits"]["train"]
