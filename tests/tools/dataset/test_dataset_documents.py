"""Which files are read, and that pieces of a text give the tokens of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_toys import flat
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from megacontext.errors import ConfigError, MegaContextError, MissingAsset
from tools.dataset import documents
from tools.dataset.documents import encode_text, find_files, hash_files, read_text

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "über",
    "naïve",
    "don't",
    "x1",
    "42",
    "...",
    "\n",
    "\n\n",
    "  ",
    "\t",
    "\r",
    "日本",
]


def ignore(_: int) -> None:
    pass


def text_of(path: Path) -> str:
    (source,) = hash_files([path], ignore)
    return "".join(read_text(source, ignore))


# --- files ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "deep/[d].txt", "note.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.txt").mkdir()
    return tmp_path


def test_a_glob_goes_into_folders_sorted_and_finds_files_only(folder: Path) -> None:
    found = [path.relative_to(folder).as_posix() for path in find_files(folder, "**/*.txt", None)]
    assert found == ["a.txt", "b.txt", "deep/[d].txt", "deep/er/c.txt"]


def test_max_files_takes_the_first_by_name(folder: Path) -> None:
    assert [path.name for path in find_files(folder, "**/*.txt", 2)] == ["a.txt", "b.txt"]


def test_a_file_of_that_very_name_is_no_glob(folder: Path) -> None:
    assert find_files(folder, "deep/[d].txt", None) == [folder / "deep/[d].txt"]


def test_a_folder_whose_name_has_brackets_is_no_glob(tmp_path: Path) -> None:
    base = tmp_path / "run[1]"
    base.mkdir()
    (base / "a.txt").write_text("a")
    assert find_files(base, "*.txt", None) == [base / "a.txt"]


@pytest.mark.parametrize(("pattern", "reason"), [("*.tex", "no files match"), ("folder*", "only folders match")])
def test_no_text_is_a_missing_asset_that_names_the_pattern(folder: Path, pattern: str, reason: str) -> None:
    with pytest.raises(MissingAsset, match=reason) as caught:
        find_files(folder, pattern, None)
    assert pattern in str(caught.value)
    assert "bootstrap_env.py" in str(caught.value)


# --- text ---


def test_text_has_one_kind_of_newline_and_no_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n\ufeffü".encode())
    assert text_of(tmp_path / "a.txt") == "one\ntwo\nthree\n\ufeffü"


def test_letters_and_newlines_survive_the_border_between_two_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes("aü日\r\n𝔘\r\n".encode())
    for chunk in range(1, 8):
        monkeypatch.setattr(documents, "CHUNK", chunk)
        assert text_of(tmp_path / "a.txt") == "aü日\n𝔘\n"


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
@pytest.mark.parametrize(("data", "byte"), [(b"abc\xffdef", 3), (b"abc\xe2\x82", 3), (b"\xc3\xbc\xc3(", 2)])
def test_a_file_that_is_not_utf8_is_named_with_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, data: bytes, byte: int
) -> None:
    monkeypatch.setattr(documents, "CHUNK", chunk)
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"a\.txt: not UTF-8 text \(byte {byte}\)"):
        text_of(tmp_path / "a.txt")


def test_a_file_that_changes_meanwhile_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    (source,) = hash_files([file], ignore)
    file.write_text("three")
    with pytest.raises(MegaContextError, match="changed while it was read"):
        list(read_text(source, ignore))


# --- pieces ---


def bpe(*, byte_level: bool) -> Tokenizer:
    """Trained on a few words; without byte_level as SentencePiece does it: one normaliser, no words."""
    tokenizer = Tokenizer(models.BPE())
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else sorted(set("".join(WORDS)) | {"▁"})
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS * 3), "\n\n".join(WORDS), "".join(WORDS)], trainer)
    return tokenizer


TOKENIZERS = {kind: bpe(byte_level=kind == "words") for kind in ("words", "no words")}


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=120), joint=st.sampled_from(["", " "]), size=st.integers(1, 40))
def test_pieces_give_the_tokens_of_the_whole_text(kind: str, words: list[str], joint: str, size: int) -> None:
    def encode(text: str) -> list[int]:
        return TOKENIZERS[kind].encode(text).ids

    text = joint.join(words)
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", 40)
        patch.setattr(documents, "PROBE", 12)
        assert flat(encode_text(parts, encode)) == encode(text)


def test_a_long_text_is_really_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE", 50_000)
    longest = 0

    def encode(text: str) -> list[int]:
        nonlocal longest
        longest = max(longest, len(text))
        return TOKENIZERS["words"].encode(text).ids

    part = "the quick brown fox\n" * 500
    pieces = list(encode_text([part] * 40, encode))
    assert len(pieces) > 5
    assert longest < documents.PIECE + len(part)
    assert sum(map(len, pieces)) == 40 * len(TOKENIZERS["words"].encode(part).ids)
