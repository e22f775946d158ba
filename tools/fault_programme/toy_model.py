"""A toy model in a folder as the hub has them: a Llama of random weights whose ids are bytes and two specials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SPECIALS = ("<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WIDTH, HEADS, KV_HEADS, INNER, LAYERS, POSITIONS = 32, 4, 2, 48, 2, 2048


def write_model(folder: Path, seed: int = 0) -> None:
    """All files of the model: `write_texts`, config.json, model.safetensors."""
    import torch
    from safetensors.torch import save_file

    write_texts(folder)
    vocab = 256 + len(SPECIALS)
    rng = torch.Generator().manual_seed(seed)
    save_file({name: _weight(name, shape, rng) for name, shape in _shapes(vocab).items()}, folder / "model.safetensors")


def write_texts(folder: Path) -> None:
    """config.json, tokenizer.json, tokenizer_config.json: ids are bytes, then the specials."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = tokenizer_letters()
    files: dict[str, Any] = {
        "config.json": config(len(letters)),
        "tokenizer.json": tokenizer(letters),
        "tokenizer_config.json": {"eos_token": SPECIALS[1], "chat_template": TEMPLATE},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def tokenizer_letters() -> list[str]:
    """By id: the letters that stand for bytes, then the specials."""
    from megacontext.models.text import BYTE_OF

    return [*sorted(BYTE_OF, key=lambda letter: BYTE_OF[letter]), *SPECIALS]


def config(vocab: int) -> dict[str, object]:
    """config.json."""
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def tokenizer(letters: Sequence[str]) -> dict[str, Any]:
    """tokenizer.json of byte-level BPE without merges; the last letters are the specials."""
    flags = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [{"id": letters.index(name), "content": name, **flags} for name in SPECIALS],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []},
    }


def _shapes(vocab: int) -> dict[str, tuple[int, ...]]:
    key = WIDTH * KV_HEADS // HEADS
    rows = {"q": WIDTH, "k": key, "v": key, "o": WIDTH}
    layer: dict[str, tuple[int, ...]] = {f"self_attn.{part}_proj": (count, WIDTH) for part, count in rows.items()}
    layer |= {"mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER)}
    layer |= {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in layer.items()}
    head = {"model.embed_tokens.weight": (vocab, WIDTH), "lm_head.weight": (vocab, WIDTH)}
    return {**shapes, **head, "model.norm.weight": (WIDTH,)}


def _weight(name: str, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Normal numbers; ids that are no printable character are never among the likeliest."""
    import torch

    if len(shape) == 1:
        return torch.ones(shape)
    weight = torch.randn(shape, generator=rng) * 0.3
    if name == "lm_head.weight":
        weight[:32] = weight[127:] = 0
    return weight
