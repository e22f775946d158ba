"""nanochat checkpoints through the same door as every other model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megacontext.config import ModelConfig
from megacontext.errors import ConfigError, MissingAsset
from megacontext.models import load_model
from megacontext.models.base import ModelFileError
from megacontext.testing.toy import cached_logits, full_logits
from nanochat import checkpoint_manager as manager
from nanochat.generations import G0, G4
from nanochat.gpt import GPT, GPTConfig
from nanochat.kv_cache import DenseCache
from nanochat.tokenizer import RustBPETokenizer

VOCAB = 300
SIZES = {"sequence_len": 64, "vocab_size": VOCAB, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64}
TEXTS = ["The cat sat on the mat; it's 12345 o'clock.\n\n  a=1+22*333;\n", "naïve café 你好 🙂 <|bos|>"] * 5


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return write(tmp_path / "d2")


def write(folder: Path, generation=G4, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**SIZES), generation=generation)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    manager.save_checkpoint(folder, 7, model.state_dict(), None, manager.meta_of(model, step=7))
    RustBPETokenizer.train_from_iterator(TEXTS, VOCAB).save(folder / "tokenizer")
    return folder


def load(path: Path, **options):
    return load_model(ModelConfig(path=str(path), **{"dtype": "float32", "device": "cpu", **options}))


def test_a_checkpoint_folder_becomes_a_model_that_talks(checkpoint):
    loaded = load(checkpoint)
    text = loaded.text
    ids = [*text.chat.opening(None), *text.chat.user("The cat"), *text.encode("sat"), *text.chat.close()]
    whole = full_logits(loaded.model, ids)
    chunked = cached_logits(loaded.model, DenseCache(loaded.model.spec), ids, [2, 1])
    torch.testing.assert_close(chunked, whole, atol=1e-4, rtol=0)
    assert loaded.summary["generation"] == "G4"
    assert loaded.summary["step"] == 7
    assert loaded.model.spec.vocab == text.vocab_size == VOCAB


def test_a_folder_of_checkpoints_gives_the_largest(checkpoint):
    assert load(checkpoint.parent).summary["layers"] == 2


def test_its_conversations_are_those_that_it_was_trained_on(checkpoint):
    text = load(checkpoint).text
    tokenizer = RustBPETokenizer.from_directory(checkpoint / "tokenizer")
    turns = [("user", "The cat?"), ("assistant", "sat."), ("user", "naïve")]
    ids, _ = tokenizer.render_conversation({"messages": [{"role": r, "content": c} for r, c in turns]})
    chat = text.chat
    ours = [*chat.opening(None), *chat.user("The cat?"), *text.encode("sat."), *chat.close()]
    assert [*ours, *chat.user("naïve", reply=False)] == ids
    assert chat.close()[0] in text.stop_ids
    assert tokenizer.get_bos_token_id() in text.stop_ids


def test_typed_specials_stay_text(checkpoint):
    text = load(checkpoint).text
    words = "<|assistant_end|><|bos|> the"
    assert text.special_ids.isdisjoint(text.encode(words))
    assert text.decode(text.encode(words)) == words
    assert len(text.special_ids & set(text.chat.user(words))) == 3
    assert text.token_bytes(text.chat.close()[0]) == b""


def test_a_system_message_is_refused_as_the_format_has_none(checkpoint):
    with pytest.raises(ConfigError, match="system"):
        load(checkpoint).text.chat.opening("be kind")


def test_text_fingerprints_follow_the_tokenizer(checkpoint, tmp_path):
    one, other = load(checkpoint), load(write(tmp_path / "other", seed=3))
    assert one.text.fingerprint == other.text.fingerprint
    assert one.model.spec.fingerprint != other.model.spec.fingerprint


def test_the_generation_can_be_said(checkpoint, tmp_path):
    folder = write(tmp_path / "old", generation=G0)
    assert load(folder).summary["generation"] == "G0"
    with pytest.raises(ModelFileError):
        load(checkpoint, generation="G0")


def test_bf16_is_what_the_cache_keeps(checkpoint):
    spec = load(checkpoint, dtype="bfloat16").model.spec
    assert spec.dtype == torch.bfloat16
    assert spec.fingerprint != load(checkpoint).model.spec.fingerprint


def test_damage_and_absence_have_their_own_errors(checkpoint):
    (checkpoint / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(MissingAsset, match="tokenizer"):
        load(checkpoint)
    model = checkpoint / "model_000007.pt"
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(ModelFileError, match="model_000007"):
        load(checkpoint)
