"""The parsers of nanochat's checkpoints, to be fuzzed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tools.fault_programme.fuzz_target import JSON, Target


def nanochat_targets(folder: Path) -> Iterator[Target]:
    """All of them. folder: for their files."""
    yield nanochat_json(folder / "nanochat-json")
    yield nanochat_pickle(folder / "nanochat-pickle")
    yield checkpoint_meta(folder / "meta")
    yield checkpoint_weights(folder / "weights")


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
    return Target("nanochat tokenizer.json", [path.read_bytes()], parse, expected, words, tree=JSON)


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
    return Target("tokenizer.pkl", [pickle.dumps(encoding, 4)], parse, (ValueError,), words)


def checkpoint_meta(folder: Path) -> Target:
    """meta_<step>.json beside weights that are whole."""
    path, parse, allowed = _checkpoint(folder, "meta_000001.json")
    words = [b'"model_config"', b'"n_layer"', b'"n_embd"', b'"vocab_size"', b'"G4"', b'"window_pattern"', b'"SL"']
    return Target("meta.json", [path.read_bytes()], parse, allowed, words, share=0.5, tree=JSON)


def checkpoint_weights(folder: Path) -> Target:
    """model_<step>.pt."""
    path, parse, allowed = _checkpoint(folder, "model_000001.pt")
    words = [b"torch._utils", b"_rebuild_tensor_v2", b"FloatStorage", b"os", b"system", b"PK\3\4", b"transformer.wte"]
    return Target("model.pt", [path.read_bytes()], parse, allowed, words, share=0.5)


def _checkpoint(folder: Path, name: str) -> tuple[Path, Callable[[bytes], None], tuple[type[Exception], ...]]:
    """A whole checkpoint; the file that is to be fuzzed, its parser, and what that may answer."""
    from megacontext.config import ModelConfig
    from megacontext.errors import ConfigError, MissingAsset
    from megacontext.models.base import ModelFileError
    from megacontext.models.nanochat import load_nanochat
    from megacontext.testing.toy import toy_model
    from nanochat.checkpoint_manager import meta_of, save_checkpoint
    from nanochat.tokenizer import SPECIAL_TOKENS
    from nanochat.tokenizer_files import TokenizerFacts, write_tokenizer

    model = toy_model("G1", n_layer=1, n_head=1, n_kv_head=1, n_embd=8, sequence_len=16)
    save_checkpoint(folder, 1, model.state_dict(), None, meta_of(model, step=1))
    ranks = {bytes([byte]): byte for byte in range(256)}
    specials = {special: 256 + at for at, special in enumerate(SPECIAL_TOKENS)}
    (folder / "tokenizer").mkdir()
    write_tokenizer(folder / "tokenizer", TokenizerFacts("toy", "a+", ranks, specials))
    path, config = folder / name, ModelConfig(path=str(folder), device="cpu", dtype="float32")

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        load_nanochat(folder, config)

    return path, parse, (ModelFileError, MissingAsset, ConfigError)
