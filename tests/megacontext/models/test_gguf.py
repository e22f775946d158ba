"""GGUF files as llama.cpp's converter writes them come back as the model they were; damaged ones are refused."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from llama_files import SIZES, gguf_name, permute, reference, tokens_of, write_gguf

from megacontext.config import ModelConfig
from megacontext.errors import ConfigError, MegaContextError
from megacontext.models import load_model
from megacontext.models.base import ModelFileError
from megacontext.models.gguf import GGUFFile, ggml_name, unpermute
from megacontext.models.gguf_header import read_header
from nanochat.kv_cache import NoCache


def load(path: Path):
    return load_model(ModelConfig(path=str(path), dtype="float32", device="cpu"))


def logits(model, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model.forward(model.embed(tokens), NoCache(model.spec)))


def expected(model, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens).logits


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 1}, {"head_dim": 32}])
def test_a_float_file_gives_the_logits_of_the_original(tmp_path, changes):
    theirs, tokens = reference(**changes), tokens_of(60)
    loaded = load(write_gguf(tmp_path / "tiny.gguf", theirs))
    torch.testing.assert_close(logits(loaded.model, tokens), expected(theirs, tokens), atol=1e-4, rtol=0)
    assert loaded.summary["stored_as"] == "F32"
    assert loaded.name == "tiny"


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_a_quantised_file_gives_the_logits_of_the_rounded_original(tmp_path, kind):
    theirs, tokens = reference(intermediate_size=128), tokens_of(60)
    loaded = load(write_gguf(tmp_path / "tiny.gguf", theirs, kind=kind))
    stored = gguf.GGMLQuantizationType[kind]
    for parameter in theirs.parameters():
        if parameter.ndim > 1:  # permuting rows and rounding within rows commute
            rounded = gguf.quants.dequantize(gguf.quants.quantize(parameter.detach().numpy(), stored), stored)
            parameter.data = torch.from_numpy(rounded.astype(np.float32))
    torch.testing.assert_close(logits(loaded.model, tokens), expected(theirs, tokens), atol=1e-4, rtol=0)


def test_llama_3_divisors_equal_llama_3_scaling(tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    theirs = reference(rope_parameters={"rope_type": "llama3", "rope_theta": 10_000.0, **scaling})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs.config, "cpu")
    plain = 1.0 / 10_000.0 ** (torch.arange(0, 16, 2) / 16)
    path = write_gguf(tmp_path / "tiny.gguf", theirs, divisors=plain / scaled)
    tokens = tokens_of(100)
    torch.testing.assert_close(logits(load(path).model, tokens), expected(theirs, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("heads", "width"), [(1, 8), (3, 4), (4, 16)])
def test_unpermute_undoes_the_converter(heads, width):
    weight = torch.randn(heads * width, 5)
    assert torch.equal(unpermute(torch.from_numpy(permute(weight.numpy(), heads)), heads), weight)
    assert torch.equal(unpermute(torch.from_numpy(permute(weight[:, 0].numpy(), heads)), heads), weight[:, 0])


def test_every_tensor_has_its_name_in_both_worlds():
    for name in reference().state_dict():
        assert ggml_name(name) == gguf_name(name)


def test_our_header_reader_agrees_with_the_package(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", reference())
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == fields
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert info.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert info.kind == tensor.tensor_type
        assert ours.data + info.offset == tensor.data_offset


def test_the_fingerprint_follows_the_weights(tmp_path):
    prints = [
        GGUFFile(write_gguf(tmp_path / f"{i}.gguf", reference(seed=seed), kind=kind)).fingerprint
        for i, (seed, kind) in enumerate([(0, "F32"), (0, "F32"), (1, "F32"), (0, "F16")])
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general__architecture": "qwen2"}, "qwen2"),
        ({"llama__expert_count": 8}, "experts"),
        ({"llama__rope__dimension_count": 8}, "dimension_count"),
        ({"llama__rope__scaling__type": "yarn"}, "yarn"),
        ({"tokenizer__ggml__model": "t5"}, "t5"),
        ({"pre": "unheard-of"}, "unheard-of"),
        ({"template": "{% for %}"}, "template"),
    ],
)
def test_an_unsupported_kind_is_a_config_error(tmp_path, metadata, message):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, reference(), **{k: v for k, v in metadata.items() if "__" not in k})
    rewrite(path, {k.replace("__", "."): v for k, v in metadata.items() if "__" in k})
    with pytest.raises(ConfigError, match=message):
        load(path)


def rewrite(path: Path, metadata: dict[str, object]) -> None:
    """Replace or add pairs of a file's header, leaving the tensors as they are."""
    reader = gguf.GGUFReader(path)
    new = gguf.GGUFWriter(str(path) + ".new", str(metadata.pop("general.architecture", "llama")))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = metadata.pop(key, field.contents())
        new.add_key_value(key, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for key, value in metadata.items():
        new.add_string(key, value) if isinstance(value, str) else new.add_uint32(key, int(str(value)))
    for tensor in reader.tensors:
        new.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    new.write_header_to_file()
    new.write_kv_data_to_file()
    new.write_tensors_to_file()
    new.close()
    Path(str(path) + ".new").replace(path)


@pytest.mark.parametrize(
    ("start", "value", "message"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack(">I", 3), "version"),
        (8, struct.pack("<Q", 1 << 60), "tensor count"),
        (16, struct.pack("<Q", 1 << 60), "key count"),
        (24, struct.pack("<Q", 1 << 40), "string of"),
    ],
)
def test_a_damaged_header_says_what_is_wrong(tmp_path, start, value, message):
    path = write_gguf(tmp_path / "tiny.gguf", reference())
    raw = bytearray(path.read_bytes())
    raw[start : start + len(value)] = value
    path.write_bytes(raw)
    with pytest.raises(ModelFileError, match=message):
        load(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.999])
def test_a_file_that_was_cut_is_refused_before_anything_is_loaded(tmp_path, share):
    path = write_gguf(tmp_path / "tiny.gguf", reference())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(ModelFileError, match=r"ends within|past the end|too short"):
        load(path)


def test_noise_in_the_header_never_gets_out_as_a_traceback(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", reference(num_hidden_layers=1))
    whole, chance = path.read_bytes(), random.Random(0)
    start = read_header(path).data
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(chance.choice([1, 1, 3, 20])):
            raw[chance.randrange(start)] = chance.randrange(256)
        path.write_bytes(raw)
        with suppress(MegaContextError):
            load(path)


def test_the_sizes_of_the_tests_are_the_sizes_of_the_file(tmp_path):
    config = GGUFFile(write_gguf(tmp_path / "tiny.gguf", reference())).config
    assert (config.width, config.inner, config.heads, config.kv_heads) == (64, 96, 4, 2)
    assert config.vocab == SIZES["vocab_size"]
    assert config.max_position == 128
