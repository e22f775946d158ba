"""Folders of the hub: shards, ties, text side, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from llama_files import CHATML, reference, tokens_of, write_folder

from megacontext.config import ModelConfig
from megacontext.errors import ConfigError, MissingAsset
from megacontext.models import load_model
from megacontext.models.base import ModelFileError
from megacontext.models.folder import Folder
from nanochat.kv_cache import NoCache


def config(path) -> ModelConfig:
    return ModelConfig(path=str(path), dtype="float32", device="cpu")


def edit(path, **changes) -> None:
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def test_a_folder_becomes_a_model_that_talks(tmp_path):
    theirs = reference()
    loaded = load_model(config(write_folder(tmp_path / "tiny", theirs)))
    tokens = tokens_of(20)
    with torch.inference_mode():
        model = loaded.model
        ours = model.logits(model.forward(model.embed(tokens), NoCache(model.spec)))
        torch.testing.assert_close(ours, theirs(tokens).logits, atol=1e-4, rtol=0)
    assert loaded.name == "tiny"
    assert loaded.summary["parameters"] == sum(p.numel() for p in theirs.parameters())
    assert loaded.summary["max_position"] == loaded.model.spec.max_position == 128
    assert json.dumps(loaded.summary)
    assert loaded.text.vocab_size == model.spec.vocab
    assert loaded.text.chat.opening(None)[0] == 1
    assert loaded.text.stop_ids >= {1, 2}


def test_shards_are_found_by_the_index(tmp_path):
    theirs = reference()
    write_folder(tmp_path, theirs, shard="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    folder = Folder(tmp_path)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(folder.tensor(name), weight)


def test_a_head_beside_a_tied_embedding_is_ignored(tmp_path):
    write_folder(tmp_path, reference())
    edit(tmp_path / "config.json", tie_word_embeddings=True)
    assert "lm_head.weight" not in Folder(tmp_path)


def test_stop_ids_come_from_the_generation_config(tmp_path):
    write_folder(tmp_path, reference())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 17]}')
    assert load_model(config(tmp_path)).text.stop_ids >= {1, 2, 17}


def test_the_jinja_file_goes_before_the_tokenizer_config(tmp_path):
    write_folder(tmp_path, reference(), template="{{ raise_exception('not me') }}")
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert load_model(config(tmp_path)).text.chat.opening(None)


def test_a_list_of_templates_has_a_default(tmp_path):
    write_folder(tmp_path, reference())
    edit(tmp_path / "tokenizer_config.json", chat_template=[{"name": "default", "template": CHATML}])
    assert load_model(config(tmp_path)).text.chat.close()[0] == 2


def test_a_base_model_without_template_still_has_turns(tmp_path):
    write_folder(tmp_path, reference(), template=None)
    text = load_model(config(tmp_path)).text
    assert text.decode(text.chat.user("the and")).strip() == "the and"
    assert text.chat.opening(None) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "gemma"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"bits": 4}}, "GGUF"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "yarn"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ],
)
def test_an_unsupported_kind_is_a_config_error(tmp_path, changes, message):
    edit(write_folder(tmp_path, reference()) / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        load_model(config(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2"),
        ({"intermediate_size": 97}, "gate_proj"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rope_parameters": None, "rope_scaling": [1]}, "rope_scaling"),
    ],
)
def test_a_config_that_does_not_fit_names_the_place(tmp_path, changes, message):
    edit(write_folder(tmp_path, reference()) / "config.json", **changes)
    with pytest.raises(ModelFileError, match=message):
        load_model(config(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_files_are_named(tmp_path, name, damage):
    file = write_folder(tmp_path, reference()) / name
    raw = file.read_bytes()
    file.write_bytes({"cut": raw[: len(raw) // 2], "noise": b"\xff" * 64, "empty": b""}[damage])
    with pytest.raises(ModelFileError, match=name):
        load_model(config(tmp_path))


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "..", "a\ud800", "a\0b", 1])
def test_an_index_cannot_lead_out_of_the_folder(tmp_path, name):
    write_folder(tmp_path, reference())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelFileError, match="weight_map"):
        load_model(config(tmp_path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope_parameters": {"rope_theta": "llama3"}}, "rope_theta is 'llama3'"),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_theta is -1"),
        ({"head_dim": 2**31 - 1}, "heads of width 2147483647"),
    ],
)
def test_senseless_numbers_are_named_before_anything_is_made_of_them(tmp_path, changes, reason):
    write_folder(tmp_path, reference())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelFileError, match=reason):
        load_model(config(tmp_path))


def test_a_missing_shard_is_named(tmp_path):
    write_folder(tmp_path, reference())
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "other.safetensors"}}')
    with pytest.raises(ModelFileError, match=r"other\.safetensors"):
        load_model(config(tmp_path))


def test_a_missing_model_names_the_command_that_brings_it(tmp_path):
    with pytest.raises(MissingAsset, match=r"python tools/bootstrap_env\.py"):
        load_model(config(tmp_path / "none.gguf"))


def test_a_folder_without_a_model_says_what_it_expects(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a \.gguf file"):
        load_model(config(tmp_path))
