"""The parsers of model folders as the hub has them, to be fuzzed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.fault_programme import toy_model
from tools.fault_programme.fuzz_target import JSON, SAFETENSORS, Target


def model_targets(folder: Path) -> Iterator[Target]:
    """All of them. folder: for those that read files."""
    yield tokenizer_json(folder / "tokenizer")
    yield tokenizer_config(folder / "settings")
    yield gpt2_tokenizer(folder / "gpt2")
    yield chat_template(folder / "template")
    yield model_config(folder / "config")
    yield safetensors_index(folder / "index")
    yield safetensors_file(folder / "weights.safetensors")
    yield pytorch_bin(folder / "pytorch_model.bin")


def tokenizer_json(folder: Path) -> Target:
    """A folder's text side, as far as encoding a word."""
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.folder_text import FolderText

    folder.mkdir()
    letters = [*"abcdefgh", "ab", *toy_model.SPECIALS]
    small: dict[str, Any] = toy_model.tokenizer(letters)
    small["model"]["merges"] = ["a b"]
    seeds = [json.dumps(small).encode(), json.dumps({**small, "normalizer": {"type": "NFC"}}).encode()]

    def parse(data: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(data)
        FolderText(folder).text(len(letters)).encode("abc <|im_start|>")

    words = [b'"type"', b'"BPE"', b'"vocab"', b'"merges"', b'"added_tokens"', b'"special"', b'"content"', b'"id"']
    return Target("tokenizer.json", seeds, parse, (ModelFileError, ConfigError), words, tree=JSON)


def tokenizer_config(folder: Path) -> Target:
    """What it says beside the tokenizer: special tokens, chat template, stop ids."""
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.load_text import load_text

    toy_model.write_texts(folder)
    path = folder / "tokenizer_config.json"
    several = [
        {"name": "default", "template": "{% for m in messages %}{{ m.content }}{% endfor %}"},
        {"name": "tools", "template": "x"},
    ]
    token = {"content": toy_model.SPECIALS[0], "lstrip": True}
    more = {"bos_token": token, "chat_template": several, "extra_special_tokens": {"a": "b"}, "model_max_length": 1e30}

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        load_text(folder, 258)

    seeds, words = [path.read_bytes(), json.dumps(more).encode()], [b'"chat_template"', b'"eos_token"', b'"content"']
    return Target("tokenizer_config.json", seeds, parse, (ModelFileError, ConfigError), words, tree=JSON)


def chat_template(folder: Path) -> Target:
    """From the source to the ids of a turn."""
    from megacontext.errors import ConfigError
    from megacontext.models.chat_template import TemplateChat
    from megacontext.models.load_text import load_text
    from megacontext.models.text import TokenizersText

    toy_model.write_texts(folder)
    text = load_text(folder, 258)
    assert isinstance(text, TokenizersText)

    def parse(data: bytes) -> None:
        chat = TemplateChat(data.decode("utf-8", "replace"), text)
        chat.opening("S"), chat.user("hello"), chat.close()

    names = (b"messages", b"message", b"content", b"role", b"loop", b"raise_exception('x')", b"|tojson", b"|trim", b"~")
    blocks = (b"{% endfor %}", b"{% if ", b"{% endif %}", b"{{ ", b" }}", b"range(9)", b".__class__", b"['x']", b"%}")
    seeds = [toy_model.TEMPLATE.encode()]
    return Target("chat template", seeds, parse, (ConfigError,), [*names, *blocks])


def model_config(folder: Path) -> Target:
    """config.json of a Llama and of a GPT-2."""
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.folder import Folder
    from megacontext.models.load_gpt2 import gpt2_config
    from megacontext.models.load_llama import llama_config

    folder.mkdir()
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama = {**toy_model.config(258), "rope_scaling": {**scaling, "original_max_position_embeddings": 64}}
    gpt2 = {"model_type": "gpt2", "vocab_size": 258, "n_embd": 32, "n_head": 2, "activation_function": "gelu_new"}
    mistral = {**llama, "rope_scaling": None, "sliding_window": 64}
    seeds = [json.dumps(config).encode() for config in (llama, mistral, gpt2)]

    def parse(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        found = Folder(folder)
        (gpt2_config if found.raw.get("model_type") == "gpt2" else llama_config)(found)

    words = [b'"rope_scaling"', b'"factor"', b'"head_dim"', b'"rope_type"', b'"linear"', b'"yarn"', b'"llama3"', b"0.0"]
    return Target("config.json", seeds, parse, (ModelFileError, ConfigError), words, tree=JSON)


def safetensors_index(folder: Path) -> Target:
    """config.json stays as it is; the index names the files."""
    import torch
    from safetensors.torch import save_file

    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.folder import Folder

    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    seed = b'{"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}'

    def parse(data: bytes) -> None:
        (folder / "model.safetensors.index.json").write_bytes(data)
        "a" in Folder(folder)  # noqa: B015 - opens what the index names

    words = [b'"weight_map"', b'"one.safetensors"', b'"../one.safetensors"', b'"/etc/passwd"', b'""', b'"."']
    return Target("safetensors index", [seed], parse, (ModelFileError, ConfigError), words, tree=JSON)


def safetensors_file(path: Path) -> Target:
    import torch
    from safetensors.torch import save

    from megacontext.models.base import ModelFileError
    from megacontext.models.safetensors import Safetensors

    seed = save({"a": torch.arange(4, dtype=torch.float32), "b": torch.ones(2, 2, dtype=torch.bfloat16)})

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        weights = Safetensors([path])
        for name in weights.names:
            weights.shape(name), weights.stored_as(name), weights.tensor(name)
        weights.samples()

    words = [b'"dtype"', b'"F32"', b'"BF16"', b'"I64"', b'"shape"', b'"data_offsets"', b"[0,16]", b"__metadata__"]
    return Target("safetensors", [seed], parse, (ModelFileError,), words, tree=SAFETENSORS)


def pytorch_bin(path: Path) -> Target:
    """Both kinds that torch.save writes."""
    import torch

    from megacontext.models.base import ModelFileError
    from megacontext.models.pytorch_bin import PytorchBin

    tensors, seeds = {"a": torch.arange(4, dtype=torch.float32), "b": torch.ones(2, 2)}, []
    for new in (True, False):
        file = io.BytesIO()
        torch.save(tensors, file, _use_new_zipfile_serialization=new)
        seeds.append(file.getvalue())

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        weights = PytorchBin([path])
        for name in weights.names:
            weights.shape(name), weights.stored_as(name)
        weights.samples()

    words = [b"torch._utils", b"_rebuild_tensor_v2", b"FloatStorage", b"os", b"system", b"cpu", b"PK\3\4", b"PK\1\2"]
    return Target("pytorch_model.bin", seeds, parse, (ModelFileError,), words)


def gpt2_tokenizer(folder: Path) -> Target:
    """The older pair vocab.json and merges.txt, with added_tokens.json: one JSON object holds what these hold."""
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.load_text import load_text

    folder.mkdir()
    vocab = {letter: at for at, letter in enumerate([*"abcdefgh", "ab", "abc", "<|endoftext|>"])}
    whole = {"vocab": vocab, "merges": "#version: 0.2\na b\nab c\n", "added": {"<|x|>": 11}, "settings": {}}

    def parse(data: bytes) -> None:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = {**whole, "merges": data.decode("utf-8", "replace")}
        parts = {name: found.get(name) if isinstance(found, dict) else found for name in whole}
        merges = parts["merges"] if isinstance(parts["merges"], str) else json.dumps(parts["merges"])
        (folder / "merges.txt").write_bytes(merges.encode("utf-8", "surrogatepass"))
        for name, file in (("vocab", "vocab"), ("added", "added_tokens"), ("settings", "tokenizer_config")):
            (folder / f"{file}.json").write_text(json.dumps(parts[name]))
        load_text(folder, 12).encode("abc <|endoftext|>")

    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    words = [b"a b", b"\\n", b"#version", b'"<|endoftext|>"', b'"add_prefix_space"', b'"bos_token"', b'"merges"']
    seeds = [json.dumps(whole).encode()]
    return Target("vocab.json, merges.txt", seeds, parse, (ModelFileError, ConfigError), words, tree=JSON)
