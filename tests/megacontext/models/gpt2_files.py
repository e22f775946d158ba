"""Tiny GPT-2 models on disk, as transformers writes them today and as it wrote them in 2020."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from llama_files import MERGES
from torch import Tensor

from megacontext.models.text import BYTE_OF

END = "<|endoftext|>"
PLAIN_MERGES = MERGES[:6]  # without those that begin to spell a special
TOKENS = [*BYTE_OF, *("".join(pair) for pair in PLAIN_MERGES), END]
SIZES: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "n_positions": 128,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": len(TOKENS) - 1,
    "eos_token_id": len(TOKENS) - 1,
}
TINY = {"n_embd": 2, "n_head": 2, "n_layer": 2}  # the shape of sshleifer/tiny-gpt2


def reference(seed: int = 0, **changes: Any) -> Any:
    """transformers' own model, random in every weight, in float32."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**{**SIZES, **changes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def tokens_of(rows: int, seed: int = 1) -> Tensor:
    return torch.randint(0, len(TOKENS), (1, rows), generator=torch.Generator().manual_seed(seed))


def write_folder(path: Path, model: Any, *, shard: str = "5GB") -> Path:
    """config.json and model.safetensors, the tokenizer as a pair of files."""
    model.save_pretrained(path, max_shard_size=shard)
    return write_pair(path)


def write_bin(path: Path, model: Any, *, prefix: bool = True, zipped: bool = True, masks: bool = True) -> Path:
    """config.json and pytorch_model.bin, as transformers wrote it: masks among the weights, the base model alone."""
    path.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(path)
    weights = {name: weight for name, weight in model.state_dict().items() if prefix or name != "lm_head.weight"}
    if masks:
        for i in range(model.config.n_layer):
            weights[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 128, 128, dtype=torch.uint8).tril()
            weights[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    named = {name if prefix else name.removeprefix("transformer."): weight for name, weight in weights.items()}
    torch.save(named, path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    return write_pair(path)


def write_pair(path: Path) -> Path:
    """vocab.json and merges.txt."""
    vocab = {token: i for i, token in enumerate(TOKENS)}
    (path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in PLAIN_MERGES), ""]
    (path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return path


def edit(path: Path, **changes: Any) -> None:
    """Change values of a JSON file; None takes one out."""
    raw = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}), encoding="utf-8")
