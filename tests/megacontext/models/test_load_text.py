"""A model's text side without its weights is the one that the whole model has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gpt2_files
import llama_files
import pytest
import torch

from megacontext.config import ModelConfig
from megacontext.errors import ConfigError, MissingAsset
from megacontext.models import load_model
from megacontext.models.load_text import load_text
from nanochat import checkpoint_manager as manager
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import RustBPETokenizer

SAID = "What's 2+2?\n\n naïve café 你好 <|im_end|>"


def llama(folder: Path) -> Path:
    return llama_files.write_folder(folder / "llama", llama_files.reference())


def gguf(folder: Path) -> Path:
    return llama_files.write_gguf(folder / "tiny.gguf", llama_files.reference())


def gpt2(folder: Path) -> Path:
    return gpt2_files.write_folder(folder / "gpt2", gpt2_files.reference())


def nanochat(folder: Path) -> Path:
    vocab = 300
    torch.manual_seed(0)
    model = GPT(GPTConfig(sequence_len=64, vocab_size=vocab, n_layer=2, n_head=2, n_kv_head=2, n_embd=32))
    manager.save_checkpoint(folder / "d2", 1, model.state_dict(), None, manager.meta_of(model, step=1))
    texts = ["The cat sat on the mat; it's 12345 o'clock.\n\n  a=1+22*333;\n", "naïve café 你好 🙂 <|bos|>"] * 5
    RustBPETokenizer.train_from_iterator(texts, vocab).save(folder / "d2" / "tokenizer")
    return folder


@pytest.mark.parametrize("write", [llama, gguf, gpt2, nanochat])
def test_the_text_alone_is_the_models_own(write, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    path = write(tmp_path)
    whole = load_model(ModelConfig(path=str(path), dtype="float32", device="cpu")).text
    alone = load_text(path, whole.vocab_size)
    assert (alone.fingerprint, alone.vocab_size) == (whole.fingerprint, whole.vocab_size)
    assert alone.encode(SAID) == whole.encode(SAID)
    assert alone.chat.user(SAID) == whole.chat.user(SAID)
    assert alone.decode(whole.encode(SAID)) == whole.decode(whole.encode(SAID))


def test_a_gguf_files_text_needs_no_torch(tmp_path):
    path = gguf(tmp_path)
    program = (
        "import sys; from pathlib import Path; from megacontext.models.load_text import load_text\n"
        "load_text(Path(sys.argv[1]), 64); sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program, str(path)], cwd=root).returncode == 0


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ConfigError, match=r"notes\.txt is no model"):
        load_text(tmp_path / "notes.txt", 64)
    with pytest.raises(MissingAsset, match="no model at"):
        load_text(tmp_path / "nothing", 64)
    with pytest.raises(MissingAsset):
        load_text(tmp_path, 64)
