"""A session in one file comes back as it was, or is refused: no byte of it can be changed unnoticed."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.session import Turn
from megacontext.sessions.portable import FORMAT, LONGEST_HEADER, PARTS, Portable, pack, unpack
from megacontext.sessions.transcript import Message

SESSION = Portable(
    "talk",
    "toy",
    "w",
    "bytes",
    300,
    np.array([1, 2, 299], np.uint32),
    [Turn(0, 2, "user"), Turn(2, 3, "assistant")],
    [Message("user", "é <|im_end|>"), Message("document", "b")],
)
DATA = pack(SESSION)


def same(one, other):
    return one.tokens.tolist() == other.tokens.tolist() and vars(one) | {"tokens": 0} == vars(other) | {"tokens": 0}


def test_what_was_packed_comes_back():
    assert same(unpack(DATA), SESSION)


def test_an_empty_session_is_one_too():
    empty = Portable("e", "", "", "f", 1, np.empty(0, np.uint32), [], [])
    assert same(unpack(pack(empty)), empty)


def test_any_reader_of_safetensors_can_read_it():
    from safetensors.numpy import load

    parts = load(DATA)
    assert parts["tokens"].tolist() == [1, 2, 299]
    assert json.loads(parts["messages"].tobytes())["messages"][1] == {"role": "document", "content": "b"}
    assert json.loads(parts["turns"].tobytes()) == [[0, 2, "user"], [2, 3, "assistant"]]


def test_every_changed_byte_is_noticed():
    for place in range(len(DATA)):
        for flip in (1, 0x20, 0x80):
            changed = bytearray(DATA)
            changed[place] ^= flip
            with suppress(ValueError):
                assert same(unpack(bytes(changed)), SESSION), place


@pytest.mark.parametrize("length", range(0, len(DATA), 7))
def test_a_shortened_file_is_refused(length):
    with pytest.raises(ValueError, match="it "):
        unpack(DATA[:length])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(DATA)), st.binary(max_size=64))
def test_junk_raises_value_error_only(place, junk):
    with suppress(ValueError):
        unpack(DATA[:place] + junk + DATA[place + len(junk) :])


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(st.sampled_from(["__metadata__", "format", "manifest", "tokens"]), x, max_size=4)
        ),
    )
)
def test_headers_without_sense_raise_value_error_only(value):
    header = json.dumps(value).encode()
    with pytest.raises(ValueError, match="it"):
        unpack(struct.pack("<Q", len(header)) + header)


def forged(change, **parts):
    """An export whose hashes fit, made by somebody with bad intentions."""
    import hashlib

    from safetensors.numpy import load, save

    data = load(DATA) | parts
    size = int.from_bytes(DATA[:8], "little")
    manifest = json.loads(json.loads(DATA[8 : 8 + size])["__metadata__"]["manifest"])
    for name, part in data.items():
        manifest["parts"][name] = {"bytes": part.nbytes, "sha256": hashlib.sha256(part.tobytes()).hexdigest()}
    change(manifest)
    text = json.dumps(manifest)
    sha = hashlib.sha256(text.encode()).hexdigest()
    return save(data, metadata={"format": FORMAT, "manifest": text, "sha256": sha})


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(manifest):
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "parts", "what"),
    [
        (put("version", 2), {}, "another version"),
        (put("version", []), {}, "another version"),
        (put("tokenizer", "vocab", 0), {}, "makes no sense"),
        (put("tokenizer", "vocab", True), {}, "makes no sense"),
        (put("tokenizer", "vocab", 299), {}, "id 299 is not in its vocabulary"),
        (put("tokenizer", "fingerprint", 1), {}, "no fingerprint"),
        (put("tokenizer", None), {}, "no tokenizer"),
        (put("model", []), {}, "no model"),
        (put("name", "x" * 300), {}, "no name"),
        (put("parts", "tokens", None), {}, "part tokens is damaged"),
        (put("parts", "tokens", "bytes", 1 << 60), {}, "part tokens is damaged"),
        (put("name", "n"), {"tokens": np.zeros((3, 1), np.uint32)}, "of shape"),
        (put("name", "n"), {"tokens": np.zeros(3, np.float32)}, "float32"),
        (put("name", "n"), {"more": np.zeros(3, np.uint8)}, "it has the parts"),
        *(
            (put("name", "n"), {"turns": np.frombuffer(turns, np.uint8)}, f"turns make no sense: .*{what}")
            for turns, what in (
                (b'[[0, 9, "user"]]', "turn 1 does not lie between 0 and 3"),
                (b'[[0, 2, "user"], [1, 3, "user"]]', "turn 2 does not lie between 2 and 3"),
                (b'[[0, 2.0, "user"]]', "turn 1 does not lie"),
                (b'[[0, 2, "<|bos|>"]]', "turn 1 is of no role"),
                (b"[[0, 2, 3]]", "turn 1 is of no role"),
                (b"[[0, 2]]", "missing"),
                (b"[3]", "iterable"),
                (b"[" * 9999, ""),
                (b"\xff", "utf"),
            )
        ),
        (put("name", "n"), {"messages": np.frombuffer(b"[" * 9999, np.uint8)}, "messages make no sense"),
        (put("name", "n"), {"messages": np.frombuffer(b'[{"role": "tool"}]', np.uint8)}, "role 'tool'"),
        (put("name", "n"), {"messages": np.frombuffer(b"\xff\xfe", np.uint8)}, "messages make no sense"),
    ],
)
def test_a_forged_export_is_refused(change, parts, what):
    with pytest.raises(ValueError, match=what):
        unpack(forged(change, **parts))


def test_a_long_header_is_not_parsed():
    with pytest.raises(ValueError, match="too long"):
        unpack(struct.pack("<Q", LONGEST_HEADER + 1) + b" " * (LONGEST_HEADER + 1))
    with pytest.raises(ValueError, match="too long"):
        unpack(struct.pack("<Q", 1 << 63) + b"{}")


def test_other_safetensors_are_told_apart():
    from safetensors.numpy import save

    with pytest.raises(ValueError, match="no session export"):
        unpack(save({"a": np.zeros(1, np.float32)}, metadata={"format": "pt"}))
    assert set(PARTS) == {"tokens", "turns", "messages"}


def test_the_documentation_names_every_entry():
    size = int.from_bytes(DATA[:8], "little")
    metadata = json.loads(DATA[8 : 8 + size])["__metadata__"]
    manifest = json.loads(metadata["manifest"])
    documented = (Path(__file__).resolve().parents[3] / "docs" / "session_export.md").read_text(encoding="utf-8")
    for name in [*metadata, *PARTS]:
        assert f"| `{name}` |" in documented
    for name in manifest:
        assert f'"{name}": ' in documented
    assert FORMAT in documented
