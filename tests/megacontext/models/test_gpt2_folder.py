"""Folders of GPT-2: both weight formats, both tokenizer formats, heads cut to the tokenizer, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from gpt2_files import END, PLAIN_MERGES, TINY, TOKENS, edit, reference, tokens_of, write_bin, write_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from megacontext.config import ModelConfig
from megacontext.errors import ConfigError
from megacontext.models import load_model
from megacontext.models.base import ModelFileError
from megacontext.models.gpt2_tokenizer import GPT2Text
from megacontext.models.text import BYTE_OF
from nanochat.kv_cache import NoCache

WORDS = st.text(st.characters(codec="utf-8"), max_size=30)
TYPED = st.lists(st.one_of(WORDS, st.sampled_from([END, "<|end", "oftext|>", "<pad>"])), max_size=5).map("".join)
END_ID = len(TOKENS) - 1


def config(path, **changes) -> ModelConfig:
    return ModelConfig(**{"path": str(path), "dtype": "float32", "device": "cpu", **changes})


def write_bytes_tokenizer(path) -> None:
    """One id a byte and the end of the text, in tokenizer.json."""
    made = Tokenizer(models.BPE(vocab={**BYTE_OF, END: 256}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([END])
    made.save(str(path / "tokenizer.json"))


@torch.inference_mode()
def logits(model, tokens):
    return model.logits(model.forward(model.embed(tokens), NoCache(model.spec)))


@pytest.mark.parametrize("write", [write_folder, write_bin])
def test_a_folder_becomes_a_model_that_talks(tmp_path, write):
    theirs, tokens = reference(), tokens_of(20)
    loaded = load_model(config(write(tmp_path / "tiny", theirs)))
    torch.testing.assert_close(logits(loaded.model, tokens), theirs(tokens).logits, atol=1e-4, rtol=0)
    assert loaded.name == "tiny"
    assert loaded.summary["family"] == "gpt2"
    assert loaded.summary["tokenizer"] == "bpe"
    assert loaded.summary["stored_as"] == "F32"
    assert "seeded" not in loaded.summary
    assert json.dumps(loaded.summary)
    assert loaded.text.vocab_size == loaded.model.spec.vocab == len(TOKENS)
    assert loaded.text.stop_ids == {END_ID}


def test_plain_turns_where_there_is_no_template(tmp_path):
    text = load_model(config(write_folder(tmp_path, reference()))).text
    assert text.chat.opening(None) == []
    assert text.decode([*text.chat.user("the and"), *text.encode("a"), *text.chat.close()]) == "the and\n\na\n\n"


def test_a_template_may_name_the_end_of_a_text_though_no_file_does(tmp_path):
    """As DialoGPT's."""
    write_folder(tmp_path, reference())
    template = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    text = load_model(config(tmp_path)).text
    assert text.chat.user("the") == [*text.encode("the"), END_ID]
    assert text.chat.close() == [END_ID]


def test_shards_are_found_by_the_index(tmp_path):
    theirs, tokens = reference(), tokens_of(20)
    write_folder(tmp_path, theirs, shard="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    torch.testing.assert_close(
        logits(load_model(config(tmp_path)).model, tokens), theirs(tokens).logits, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_every_number_format_is_read_by_the_same_code(tmp_path, dtype):
    loaded = load_model(config(write_bin(tmp_path, reference().bfloat16()), dtype=dtype))
    assert loaded.summary["stored_as"] == "BF16"
    assert loaded.summary["dtype"] == dtype or dtype == "auto"
    assert logits(loaded.model, tokens_of(20)).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_what_the_cpu_does(tmp_path):
    folder, tokens = write_folder(tmp_path, reference()), tokens_of(60)
    here, there = (load_model(config(folder, device=device)).model for device in ("cpu", "cuda"))
    torch.testing.assert_close(logits(there, tokens.cuda()).cpu(), logits(here, tokens), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="position 128"):
        there.forward(there.embed(tokens_of(129).cuda()), NoCache(there.spec))


# --- tokenizers ---


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("pair"), reference())


@settings(max_examples=60, deadline=None)
@given(TYPED)
def test_the_pair_of_files_cuts_text_as_transformers_does(pair, words):
    from transformers import GPT2Tokenizer

    theirs = GPT2Tokenizer(vocab={token: i for i, token in enumerate(TOKENS)}, merges=PLAIN_MERGES)
    text = GPT2Text(pair).text(len(TOKENS))
    assert text.encode(words) == theirs.encode(words, add_special_tokens=False, split_special_tokens=True)
    assert text.decode(text.encode(words)) == words


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TYPED)
def test_what_is_typed_is_never_a_special(pair, words):
    text = load_model(config(pair)).text
    assert text.special_ids == {END_ID}
    assert text.special_ids.isdisjoint([*text.encode(words), *text.chat.user(words)])


def test_added_tokens_keep_their_ids(tmp_path):
    """`<pad>` is a special by its look, `maybe` a word."""
    write_folder(tmp_path, reference(vocab_size=len(TOKENS) + 2))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"maybe": END_ID + 1, "<pad>": END_ID + 2}))
    text = load_model(config(tmp_path)).text
    assert text.specials == {END: END_ID, "<pad>": END_ID + 2}
    assert END_ID + 1 in text.encode("maybe")
    assert text.decode([END_ID + 1, END_ID + 2]) == "maybe"


def test_the_special_tokens_map_names_specials_too(tmp_path):
    write_folder(tmp_path, reference())
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "the"}}))
    text = load_model(config(tmp_path)).text
    the = TOKENS.index("the")
    assert the in text.special_ids
    assert the in text.stop_ids
    assert the not in text.encode("the")


def test_a_prefix_space_is_asked_for_by_the_settings(tmp_path):
    write_folder(tmp_path, reference())
    plain = load_model(config(tmp_path)).text.encode("the")
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    text = load_model(config(tmp_path)).text
    assert text.encode("the") == [TOKENS.index("Ġthe")] != plain


def test_windows_line_ends_and_a_missing_version_change_nothing(tmp_path):
    write_folder(tmp_path, reference())
    expected = load_model(config(tmp_path)).text.encode("the and #version")
    (tmp_path / "merges.txt").write_bytes("\r\n".join(" ".join(pair) for pair in PLAIN_MERGES).encode())
    assert load_model(config(tmp_path)).text.encode("the and #version") == expected


def test_the_head_is_cut_to_what_the_tokenizer_knows(tmp_path):
    """The seeded model: rows for a whole vocabulary, a tokenizer of bytes."""
    theirs = reference(**TINY, vocab_size=5000)
    write_folder(tmp_path, theirs)
    write_bytes_tokenizer(tmp_path)
    edit(tmp_path / "config.json", megacontext_seeded=42, eos_token_id=256, bos_token_id=256)
    loaded = load_model(config(tmp_path))
    tokens = torch.tensor([loaded.text.encode("the é\n")])
    assert tokens.tolist() == [list("the é\n".encode())]
    assert loaded.summary["seeded"] == 42
    assert loaded.summary["tokenizer"] == "bytes"
    assert loaded.text.vocab_size == loaded.model.spec.vocab == loaded.summary["vocab"] == 257
    assert 256 in loaded.text.stop_ids
    with torch.inference_mode():
        expected = theirs(tokens).logits[:, :, :257]
    torch.testing.assert_close(logits(loaded.model, tokens), expected, atol=1e-4, rtol=0)


def test_a_special_beyond_the_embedding_is_no_harm(tmp_path):
    write_folder(tmp_path, reference())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": END_ID + 1}))
    assert load_model(config(tmp_path)).model.spec.vocab == len(TOKENS)


def test_a_word_beyond_the_embedding_is_refused(tmp_path):
    write_folder(tmp_path, reference())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"maybe": END_ID + 1}))
    with pytest.raises(ModelFileError, match=rf"vocab\.json.* up to {END_ID + 1}, .*vocab_size is {len(TOKENS)}"):
        load_model(config(tmp_path))


@pytest.mark.parametrize("gone", [["vocab.json"], ["merges.txt"], ["vocab.json", "merges.txt"]])
def test_a_tokenizer_is_never_guessed(tmp_path, gone):
    write_folder(tmp_path, reference())
    for name in gone:
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=rf"neither tokenizer\.json nor .*\({' and '.join(gone)} missing\)"):
        load_model(config(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", '{"a": "b"}', r"vocab\.json: the id of 'a' is 'b'"),
        ("vocab.json", '{"a": -1}', r"vocab\.json: the id of 'a' is -1"),
        ("vocab.json", '{"a": 0}', r"vocab\.json: not a tokenizer"),
        ("vocab.json", "[]", r"vocab\.json"),
        ("vocab.json", '{"a', r"vocab\.json"),
        ("merges.txt", "#version: 0.2\na b c", r"merges\.txt: 'a b c' is no pair"),
        ("merges.txt", "th\n", r"merges\.txt: 'th' is no pair"),
        ("added_tokens.json", '{"a": true}', r"added_tokens\.json: the id of 'a'"),
        ("config.json", '{"model_type": "gpt3"}', "'gpt3' is not supported; gpt2, llama, mistral are"),
        ("config.json", '{"model_type": ["gpt2"]}', "is not supported; gpt2, llama, mistral are"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    write_folder(tmp_path, reference())
    (tmp_path / name).write_text(content)
    with pytest.raises((ModelFileError, ConfigError), match=message):
        load_model(config(tmp_path))


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path):
    (write_folder(tmp_path, reference()) / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"neither a \*\.safetensors file nor pytorch_model\.bin"):
        load_model(config(tmp_path))
