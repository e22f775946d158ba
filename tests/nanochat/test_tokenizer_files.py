"""Tokenizers on disk: all three forms, and files that mean harm."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
from contextlib import suppress

import pytest
import tiktoken

from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, RustBPETokenizer

TEXTS = ["The cat sat on the mat; it's 12345 o'clock.\n\n  a=1+22*333;\n", "naïve café 你好 🙂 <|bos|>"] * 5


@pytest.fixture(scope="module")
def tokenizer() -> RustBPETokenizer:
    return RustBPETokenizer.train_from_iterator(TEXTS, 300)


def same(one: RustBPETokenizer, other: RustBPETokenizer) -> bool:
    return (
        one.enc._mergeable_ranks == other.enc._mergeable_ranks
        and one.enc._special_tokens == other.enc._special_tokens
        and one.enc._pat_str == other.enc._pat_str
        and one.bos_token_id == other.bos_token_id
        and all(one.encode(text) == other.encode(text) for text in TEXTS)
    )


def test_json_brings_the_tokenizer_back(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["token_bytes.pt", "tokenizer.json"]
    assert same(RustBPETokenizer.from_directory(tmp_path / "new" / "folder"), tokenizer)


def test_upstream_can_unpickle_what_we_write_and_we_read_what_it_pickles(tokenizer, tmp_path):
    tokenizer.save(tmp_path, pickle_for_upstream=True)
    with open(tmp_path / "tokenizer.pkl", "rb") as file:
        loaded = pickle.load(file)  # as upstream does it
    assert isinstance(loaded, tiktoken.Encoding)
    assert loaded.encode_ordinary(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    (tmp_path / "tokenizer.json").unlink()
    for protocol in (4, 5):
        (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(loaded, protocol=protocol))
        assert same(RustBPETokenizer.from_directory(tmp_path), tokenizer)


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _hostile() -> dict[str, bytes]:
    from builtins import eval as evaluate

    touch = "open('PWNED', 'w').close()"
    calls = {
        "os.system": Calls(os.system, "touch PWNED"),
        "eval": Calls(evaluate, touch),
        "exec": Calls(exec, touch),
        "getattr": Calls(getattr, tiktoken.Encoding, "__init__"),
        "Popen": Calls(subprocess.Popen, ["touch", "PWNED"]),
        "import": Calls(__import__, "antigravity"),
    }
    files = {name: pickle.dumps(call, protocol=4) for name, call in calls.items()}
    files |= {f"{name}, old protocol": pickle.dumps(call, protocol=0) for name, call in calls.items()}
    encoding = b"\x80\x04\x8c\x0dtiktoken.core\x94\x8c\x08Encoding\x94\x93\x94"
    files["a call of the encoding"] = encoding + b")R."
    files["an attribute of the encoding"] = encoding.replace(b"\x08Encoding", b"\x11Encoding.__init__") + b"."
    files["a registered encoding by name"] = encoding + b")\x81\x94\x8c\x04gpt2b."
    files["a bare dict"] = pickle.dumps({"name": "x"}, protocol=4)
    files["a huge memo index"] = encoding + b")\x81r\xff\xff\xff\x7f."
    files["a huge promise"] = b"\x80\x04B\xff\xff\xff\x7fabc."
    files["extension registry"] = b"\x80\x04\x82\x01."
    files["persistent id"] = b"\x80\x04\x8c\x01aQ."
    files["not a pickle"] = b"hello"
    files["empty"] = b""
    return files


@pytest.mark.parametrize("name", _hostile())
def test_a_hostile_pickle_is_refused_and_runs_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.pkl").write_bytes(_hostile()[name])
    with pytest.raises(ValueError, match=r"tokenizer\.pkl (was refused|is no usable tokenizer)"):
        RustBPETokenizer.from_directory(tmp_path)
    assert os.listdir(tmp_path) == ["tokenizer.pkl"]


def test_a_damaged_file_raises_value_error_and_nothing_else(tokenizer, tmp_path):
    tokenizer.save(tmp_path, pickle_for_upstream=True)
    dice = random.Random(0)
    good = {name: (tmp_path / name).read_bytes() for name in ("tokenizer.pkl", "tokenizer.json")}
    for name, other in [("tokenizer.pkl", "tokenizer.json"), ("tokenizer.json", "tokenizer.pkl")]:
        (tmp_path / other).unlink(missing_ok=True)
        for _ in range(300):
            data = bytearray(good[name])
            for _ in range(dice.randint(1, 4)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            (tmp_path / name).write_bytes(data[: dice.choice([len(data), dice.randrange(len(data))])])
            with suppress(ValueError):
                RustBPETokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 9}, "version 9, this program reads 1"),
        ({"ranks": {"IQ==": 0}}, "a single byte has no token"),
        ({"ranks": {"!": 0}}, "is not base64"),
        ({"special_tokens": {"<|bos|>": 5}}, "an id is used twice"),
        ({"special_tokens": {"<|bos|>": 2**40}}, "an id is not in"),
        ({"special_tokens": {"<|bos|>": True}}, "an id is not in"),
        ({"pattern": 3}, "name or pattern is no text"),
        ({"pattern": "("}, "(?i)pars|regex|group|paren"),
        ({"special_tokens": {}}, "no special token here"),
    ],
)
def test_a_wrong_field_is_named(tokenizer, tmp_path, change, complaint):
    tokenizer.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=complaint):
        RustBPETokenizer.from_directory(tmp_path)


def test_deep_nesting_is_a_value_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not valid JSON"):
        RustBPETokenizer.from_directory(tmp_path)


def test_the_older_hugging_face_file_keeps_its_ids(tmp_path):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    oracle = Tokenizer(models.BPE(byte_fallback=True, unk_token=None, fuse_unk=False))
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated", invert=False)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    oracle.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    oracle.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    oracle.train_from_iterator(TEXTS, trainer)
    oracle.save(str(tmp_path / "tokenizer.json"))

    ours = RustBPETokenizer.from_directory(tmp_path)
    assert ours.get_vocab_size() == oracle.get_vocab_size()
    assert ours.get_bos_token_id() == 0
    for text in ["the mat's cat 12345 naïve 🙂", TEXTS[0]]:
        assert ours.encode(text) == oracle.encode(text).ids
    assert min(ours.encode("<|bos|>")) >= 9  # where the old class would have found its special


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json or tokenizer\.pkl in"):
        RustBPETokenizer.from_directory(tmp_path)
