"""Out to a file and in again: exports, JSON messages, texts. What is wrong is refused before anything is made."""

from __future__ import annotations

import json
import os
import stat

import pytest
from session_toys import VOCAB, ByteText, begin, filled

from megacontext.errors import ConfigError, StoreError
from megacontext.sessions import importing
from megacontext.sessions.exporting import check_target, export_session
from megacontext.sessions.importing import import_session, read_source
from megacontext.sessions.messages import messages_json, parse_messages
from megacontext.sessions.stored import read_session
from megacontext.sessions.transcript import Message

SAID = [Message("user", "hello"), Message("assistant", "hi"), Message("document", "A book.\n")]


@pytest.fixture
def root(tmp_path):
    filled(tmp_path / "root").close()
    return tmp_path / "root"


def export(root, path, name="talk"):
    return export_session(read_session(root / name), ByteText(), path)


def take_in(path, root, name=None, text=None):
    return import_session(read_source(path), text or ByteText(), root, name, model="other toy")


def test_an_export_comes_back_token_for_token(root, tmp_path):
    told = export(root, tmp_path / "talk.safetensors")
    assert told.messages == 3
    assert told.bytes == (tmp_path / "talk.safetensors").stat().st_size
    made = take_in(tmp_path / "talk.safetensors", tmp_path / "elsewhere")
    assert (made.name, made.turns, made.said) == ("talk", 3, [])
    old, new = read_session(root / "talk"), read_session(tmp_path / "elsewhere" / "talk")
    assert new.tokens.tolist() == old.tokens.tolist()
    assert (new.turns, new.model, new.weights) == (old.turns, "toy", "w")
    with begin(tmp_path / "elsewhere") as session:
        assert len(session) == told.tokens


def test_an_export_is_its_owners_alone(root, tmp_path):
    for ending in ("safetensors", "json"):
        export(root, tmp_path / f"talk.{ending}")
        if os.name == "posix":
            assert stat.S_IMODE((tmp_path / f"talk.{ending}").stat().st_mode) == 0o600


def test_another_tokenizer_gets_the_text_encoded_again_and_it_is_said(root, tmp_path):
    export(root, tmp_path / "talk.safetensors")
    other = ByteText("other bytes", shift=7)
    made = take_in(tmp_path / "talk.safetensors", root, text=other)
    assert made.name == "talk-2"
    assert "another tokenizer (toy): its text was encoded again for other toy" in made.said[0]
    found = read_session(root / "talk-2")
    assert found.fingerprint == "other bytes"
    assert other.decode(found.tokens.tolist()).endswith("hellohiA book.\n")


def test_a_vocabulary_padded_differently_keeps_the_ids(root, tmp_path):
    export(root, tmp_path / "talk.safetensors")
    padded = ByteText()
    padded.vocab_size = VOCAB + 100
    made = take_in(tmp_path / "talk.safetensors", root, text=padded)
    assert made.said == []
    assert read_session(root / made.name).vocab == VOCAB + 100


def test_messages_go_out_as_everyone_writes_them_and_come_in_again(root, tmp_path):
    export(root, tmp_path / "talk.json")
    found = json.loads((tmp_path / "talk.json").read_bytes())
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "user"]
    made = take_in(tmp_path / "talk.json", root, "again")
    assert read_session(root / "again").tokens.tolist() == read_session(root / "talk").tokens.tolist()
    assert made.said == []


def test_a_text_is_a_document(root, tmp_path):
    source = read_source(tmp_path / "notes.txt", "Some notes.")
    made = import_session(source, ByteText(), root, None, model="toy")
    assert made.name == "notes"
    (turn,) = read_session(root / "notes").turns
    assert turn.role == "document"


def test_a_name_that_is_taken_is_refused_and_a_name_that_is_not_plain_replaced(root, tmp_path):
    (tmp_path / "my talk.json").write_bytes(messages_json(SAID))
    with pytest.raises(ConfigError, match="session talk already"):
        take_in(tmp_path / "my talk.json", root, "talk")
    with pytest.raises(ConfigError, match="not usable"):
        take_in(tmp_path / "my talk.json", root, "../out")
    assert take_in(tmp_path / "my talk.json", root).name == "imported"
    assert sorted(os.listdir(root)) == ["imported", "talk"]


def test_a_file_that_is_there_is_not_overwritten(root, tmp_path):
    (tmp_path / "talk.json").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export(root, tmp_path / "talk.json")
    with pytest.raises(ConfigError, match="name it"):
        check_target(tmp_path / "talk.zip")
    with pytest.raises(StoreError, match="cannot be written"):
        export(root, tmp_path / "nowhere" / "talk.json")


def test_a_session_of_another_tokenizer_is_not_exported_as_nonsense(root, tmp_path):
    with pytest.raises(StoreError, match="another tokenizer"):
        export_session(read_session(root / "talk"), ByteText("other"), tmp_path / "talk.json")


def test_a_damaged_session_is_not_exported_as_if_it_were_whole(root, tmp_path):
    log = root / "talk" / "tokens.log"
    data = bytearray(log.read_bytes())
    data[100] ^= 1
    log.write_bytes(data)
    with pytest.raises(StoreError, match="damaged at byte"):
        export(root, tmp_path / "talk.json")
    assert not (tmp_path / "talk.json").exists()


def test_a_damaged_export_makes_no_session(root, tmp_path):
    export(root, tmp_path / "talk.safetensors")
    data = bytearray((tmp_path / "talk.safetensors").read_bytes())
    data[-2] ^= 1
    (tmp_path / "talk.safetensors").write_bytes(data)
    with pytest.raises(StoreError, match=r"talk\.safetensors cannot be imported: its part"):
        take_in(tmp_path / "talk.safetensors", root)
    assert os.listdir(root) == ["talk"]


def test_reading_is_bounded(root, tmp_path, monkeypatch):
    export(root, tmp_path / "talk.safetensors")
    monkeypatch.setattr(importing, "LARGEST", 100)
    with pytest.raises(StoreError, match="at most 100 are read"):
        take_in(tmp_path / "talk.safetensors", root)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="an endless file")
def test_an_endless_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "LARGEST", 1 << 16)
    (tmp_path / "endless.safetensors").symlink_to("/dev/zero")
    with pytest.raises(StoreError, match="has more bytes"):
        read_source(tmp_path / "endless.safetensors")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("{}", "this is no conversation"),
        ('"text"', "this is no conversation"),
        ('{"messages": {}}', "this is no conversation"),
        ('{"messages": []}', "at least one message from user"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "message 1 has the role 'tool'"),
        ('{"messages": [{"role": ["user"], "content": "x"}]}', "message 1 has the role"),
        ('{"messages": [{"role": "document", "content": "x"}]}', "message 1 has the role 'document'"),
        ('{"messages": [3]}', "message 1 has the role None"),
        ('[{"role": "user", "content": null}]', "message 1 has content that is no text"),
        ('[{"role": "user", "content": [{"type": "image_url"}]}]', "message 1 has content that is no text"),
        ('[{"role": "user", "content": [{"type": "text", "text": 3}]}]', "message 1 has content that is no text"),
        ("not JSON", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("\xff", "is not valid JSON"),
    ],
)
def test_json_that_is_no_conversation_is_refused_in_words(tmp_path, value, what):
    (tmp_path / "talk.json").write_text(value, encoding="latin-1")
    with pytest.raises(ConfigError, match=what) as refused:
        read_source(tmp_path / "talk.json")
    assert "talk.json" in str(refused.value)


def test_parts_of_text_are_joined_and_half_characters_replaced():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b\ud800"}]
    assert parse_messages([{"role": "user", "content": parts}]) == [Message("user", "ab?")]
    assert parse_messages({"messages": [{"role": "user", "content": []}]}) == [Message("user", "")]


def test_a_file_that_is_not_there_is_told(tmp_path):
    for name in ("no.json", "no.safetensors"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_source(tmp_path / name)
