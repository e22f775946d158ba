"""Helpers of the chat's tests: a tiny random model in a real GGUF file, the command line, a clean environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megacontext.models.text import BYTE_OF

ROOT = Path(__file__).resolve().parents[3]
PROMPT = "You> "
WIDTH, HEADS, INNER, LAYERS = 32, 2, 64, 2
SPECIALS = ("<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Home(NamedTuple):
    """A project folder with a config, a model and nothing else. logs: where its event logs go."""

    path: Path
    config: Path
    logs: Path
    model: Path


class Done(NamedTuple):
    """What a run of the chat came to."""

    returncode: int
    stdout: str
    stderr: str


def command(home: Home, *flags: str) -> list[str]:
    return [sys.executable, "-m", "nanochat.chat", "--config", str(home.config), *flags]


def environment(**extra: str) -> dict[str, str]:
    """This process's, less what would steer the chat."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEGACONTEXT_")}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"} | extra


def leave(child: Any) -> int:
    """Ctrl-D at the prompt of a terminal, then the exit code."""
    import pexpect

    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def write_tiny_gguf(path: Path, max_position: int = 4096) -> None:
    """Every tensor of architecture `llama`, float32, seeded."""
    from gguf import GGUFWriter

    letters = sorted(BYTE_OF, key=lambda letter: BYTE_OF[letter])
    tokens = [*letters, "th", *SPECIALS]
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(max_position)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["t h"])
    writer.add_token_types([1] * (len(letters) + 1) + [3] * len(SPECIALS))
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)
    for name, shape in _tensors(len(tokens)).items():
        values = np.ones(shape) if name.endswith("norm.weight") else rng.normal(0, 0.3, shape)
        if name == "output.weight":
            values[-len(SPECIALS) :] = 0  # never among the likeliest: a reply only ends when it is stopped
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(vocab: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab, WIDTH),
        "output_norm.weight": (WIDTH,),
        "output.weight": (vocab, WIDTH),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {f"{block}attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}ffn_{part}.weight": (INNER, WIDTH) for part in ("gate", "up")}
        shapes |= {f"{block}ffn_down.weight": (WIDTH, INNER)}
        shapes |= {f"{block}{part}_norm.weight": (WIDTH,) for part in ("attn", "ffn")}
    return shapes
