"""GGUF files that say what cannot be: refused by our own errors, in bounded time, before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megacontext.models.base import ModelFileError
from megacontext.models.gguf import GGUFFile
from megacontext.models.load_text import load_text
from tools.fault_programme.fuzz_gguf import SIZES, pack_gguf

PIECES = ["<unk>", "<s>", "</s>", *"abc", "ab"]
TEXT = {"model": "llama", "tokens": PIECES, "scores": [0.0, *map(float, range(6))], "bos_token_id": 1}


def text_of(path: Path, template: Any = "", **changes: Any) -> None:
    metadata = {f"tokenizer.ggml.{key}": value for key, value in {**TEXT, **changes}.items()}
    path.write_bytes(pack_gguf(metadata | ({"tokenizer.chat_template": template} if template else {})))
    load_text(path, len(PIECES))


def test_a_whole_one_is_taken(tmp_path):
    text_of(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bos_token_id": 7}, "bos_token_id is 7"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"unknown_token_id": "a"}, "unknown_token_id is 'a'"),
        ({"padding_token_id": True}, "padding_token_id is True"),
        ({"token_type": [1] * 8}, "token_type must hold"),
        ({"token_type": ["a"] * 7}, "token_type must hold"),
        ({"scores": ["a"] * 7}, "scores must hold"),
        ({"template": ["a", "b"]}, "chat_template must be text"),
        ({"tokens": [*PIECES[:-1], "a" * 100_000]}, "a token of 100,000 characters"),
    ],
)
def test_a_tokenizer_that_makes_no_sense_is_refused(tmp_path, changes, told):
    with pytest.raises(ModelFileError, match=told):
        text_of(tmp_path / "model.gguf", **changes)


def test_a_matrix_whose_rows_do_not_make_the_heads_is_refused(tmp_path):
    path, metadata = tmp_path / "model.gguf", {f"llama.{key}": value for key, value in SIZES.items()}
    metadata = {"general.architecture": "llama", **metadata, "llama.attention.head_count": 5}
    tensors = [("token_embd.weight", (8, 30), 0), ("blk.0.attn_q.weight", (32, 32), 0)]
    path.write_bytes(pack_gguf({**metadata, "llama.embedding_length": 30}, tensors))
    file = GGUFFile(path)
    with pytest.raises(ModelFileError, match="32 rows for 5 heads"):
        file.tensor("model.layers.0.self_attn.q_proj.weight")
