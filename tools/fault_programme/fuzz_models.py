"""The parsers of model files, settings, conversations and event logs, to be fuzzed."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.fault_programme import toy_model
from tools.fault_programme.fuzz_target import JSON, SAFETENSORS, Target


def other_targets(folder: Path) -> Iterator[Target]:
    """All of them. folder: for those that read files."""
    yield messages()
    yield event_line()
    yield yaml_file()
    yield gguf_header(folder / "model.gguf")
    yield tokenizer_json(folder / "tokenizer")
    yield tokenizer_config(folder / "settings")
    yield chat_template(folder / "template")
    yield model_config(folder / "config")
    yield nanochat_json(folder / "nanochat-json")
    yield nanochat_pickle(folder / "nanochat-pickle")
    yield safetensors_index(folder / "index")
    yield safetensors_file(folder / "weights.safetensors")
    yield pytorch_bin(folder / "pytorch_model.bin")


# --- what was said, what is wanted, what happened ---


def messages() -> Target:
    from megacontext.errors import ConfigError
    from megacontext.sessions.messages import check_order, parse_messages

    seeds = [
        b'{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}]}',
        b'[{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]',
    ]

    def parse(data: bytes) -> None:
        try:
            value = json.loads(data)
        except RecursionError as error:
            raise ValueError from error
        check_order(parse_messages(value))

    words = [b'"role"', b'"content"', b'"messages"', b'"user"', b'"assistant"', b'"text"', b'"type"']
    return Target("messages", seeds, parse, (ConfigError, ValueError), words, tree=JSON)


def event_line() -> Target:
    from megacontext.telemetry.events import RunEnd, RunStart, Tick, Turn
    from megacontext.telemetry.schema import InvalidEvent, validate_line
    from megacontext.telemetry.sinks import encode, payload, utc_now

    tick = Tick(
        tick=1,
        reason="text",
        history_tokens=9,
        working_budget=64,
        active_slots=9,
        utilization=0.1,
        lod_counts={0: 1},
        latency_ms={"total": 1.5},
    )
    events = [
        RunStart(program="chat", config={"a": [1, None]}, config_path=None, versions={}, fingerprints={}),
        tick,
        Turn(turn=1, prompt_tokens=2, generated_tokens=3, history_tokens=5, stop="stop", name=None, resident_bytes=1),
        RunEnd(exit_code=0, seconds=1.5, totals={"turn": 1}),
    ]
    head = {"v": 1, "seq": 0, "time": utc_now(), "run": "toy"}
    seeds = [encode({**head, "type": event.type, **payload(event)}) for event in events]
    words = [b'"type"', b'"tick"', b'"turn"', b'"seq"', b'"v"', b"1.5", b"true", b'"latency_ms"', b'"lod_counts"']
    return Target("event log", seeds, validate_line, (InvalidEvent,), words, tree=JSON)


def yaml_file() -> Target:
    from megacontext.errors import ConfigError
    from megacontext.yaml_loader import parse_yaml

    seeds = [
        b"model:\n  path: a.gguf\nmemory:\n  budget: 640 # slots\n  gist_slots: [1, 0x1f, .inf]\n",
        b"a: &x {b: 'c', d: \"\\u0041\"}\ne: *x\nf: |\n  text\n  more\n- ",
        b'{"a": [1.5, true, null, "\\ud83d\\ude00"]}',
    ]

    def parse(data: bytes) -> None:
        parse_yaml(data, "fuzz.yaml" if len(data) % 2 else "fuzz.json")

    words = [b"&x ", b"*x", b"<<: ", b"!!python/object ", b"---\n", b": ", b"- ", b"\n  ", b"? ", b"%YAML 1.1\n", b"\t"]
    return Target("YAML", seeds, parse, (ConfigError,), words)


# --- models ---


def gguf_header(path: Path) -> Target:
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.gguf_header import read_header

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    scalars = [(0, b"\1"), (4, b"\1\0\0\0"), (6, bytes(4)), (7, b"\1"), (10, bytes(8)), (12, bytes(8))]
    pairs = [text(f"llama.{kind}") + struct.pack("<I", kind) + value for kind, value in scalars]
    pairs += [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("c"),
        text("types") + struct.pack("<IIQ", 9, 5, 3) + struct.pack("<3i", 1, 2, 3),
        text("general.alignment") + struct.pack("<II", 4, 32),
    ]
    info = text("blk.0.attn_q.weight") + struct.pack("<I2QIQ", 2, 4, 2, 0, 0)
    seed = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + info + bytes(64)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        read_header(path)

    words = [b"general.alignment", b"llama", struct.pack("<I", 9), struct.pack("<I", 8), struct.pack("<Q", 1 << 40)]
    return Target("GGUF header", [seed], parse, (ModelFileError, ConfigError), words)


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
    return Target("tokenizer.json", seeds, parse, (ModelFileError, ConfigError), words, share=0.2, tree=JSON)


def tokenizer_config(folder: Path) -> Target:
    """What it says beside the tokenizer: special tokens, chat template, stop ids."""
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.load_text import load_text

    toy_model.write_texts(folder)
    path = folder / "tokenizer_config.json"
    several = [{"name": "default", "template": "{{ messages[0].content }}"}, {"name": "tools", "template": "x"}]
    token = {"content": toy_model.SPECIALS[0], "lstrip": True}
    more = {"bos_token": token, "chat_template": several, "extra_special_tokens": {"a": "b"}, "model_max_length": 1e30}

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        load_text(folder, 258)

    seeds, words = [path.read_bytes(), json.dumps(more).encode()], [b'"chat_template"', b'"eos_token"', b'"content"']
    return Target("tokenizer_config.json", seeds, parse, (ModelFileError, ConfigError), words, share=0.1, tree=JSON)


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
    return Target("chat template", seeds, parse, (ConfigError,), [*names, *blocks], share=0.05)


def model_config(folder: Path) -> Target:
    """config.json of a Llama."""
    from megacontext.errors import ConfigError
    from megacontext.models.base import ModelFileError
    from megacontext.models.folder import Folder
    from megacontext.models.load_llama import llama_config

    folder.mkdir()
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    seed = {**toy_model.config(258), "rope_scaling": {**scaling, "original_max_position_embeddings": 64}}
    seeds = [json.dumps(config).encode() for config in (seed, {**seed, "rope_scaling": None, "sliding_window": 64})]

    def parse(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        llama_config(Folder(folder))

    words = [b'"rope_scaling"', b'"factor"', b'"head_dim"', b'"rope_type"', b'"linear"', b'"yarn"', b'"llama3"', b"0.0"]
    return Target("config.json", seeds, parse, (ModelFileError, ConfigError), words, tree=JSON)


def nanochat_json(folder: Path) -> Target:
    from nanochat.tokenizer_files import TokenizerFacts, read_tokenizer, write_tokenizer

    folder.mkdir()
    write_tokenizer(folder, TokenizerFacts("toy", "a+", {bytes([b]): b for b in range(256)}, {"<|bos|>": 256}))
    path = folder / "tokenizer.json"
    words = [b'"ranks"', b'"special_tokens"', b'"pattern"', b'"AA=="', b'"format"', b'"model"', b'"vocab"']

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        read_tokenizer(folder)

    expected = (ValueError, FileNotFoundError)
    return Target("nanochat tokenizer.json", [path.read_bytes()], parse, expected, words, share=0.5, tree=JSON)


def nanochat_pickle(folder: Path) -> Target:
    import pickle

    import tiktoken

    from nanochat.tokenizer_files import PICKLE_NAME, read_tokenizer

    folder.mkdir()
    ranks = {bytes([b]): b for b in range(256)}
    encoding = tiktoken.Encoding("toy", pat_str="a+", mergeable_ranks=ranks, special_tokens={"<|bos|>": 256})
    path = folder / PICKLE_NAME

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        read_tokenizer(folder)

    words = [b"tiktoken.core", b"Encoding", b"os", b"system", b"\x93", b"R", b"\x8c", b"\x94", b"h\0"]
    return Target("tokenizer.pkl", [pickle.dumps(encoding, 4)], parse, (ValueError,), words, share=0.2)


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
    return Target("pytorch_model.bin", seeds, parse, (ModelFileError,), words, share=0.1)
