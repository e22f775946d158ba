from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from toy_evaluation import words
from toy_home import write_corpus

from megacontext.errors import ConfigError, MissingAsset
from megacontext.evaluation.corpus import load_corpus


def test_documents_of_the_sample_corpus_are_cut_at_its_manifest(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "sample.txt")
    corpus = load_corpus(path)
    assert [document.title for document in corpus.documents] == ["text 0", "text 1", "text 2"]
    assert [document.text for document in corpus.documents] == [words(400, number) for number in range(3)]
    assert corpus.files == {"sample.txt": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_each_file_is_one_document_and_packing_changes_nothing(tmp_path: Path) -> None:
    text = "Grüße, once upon a time".encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text))
    corpus = load_corpus(tmp_path / "nowhere", [tmp_path / "a.txt", tmp_path / "b.txt.gz"])
    assert [document.text for document in corpus.documents] == [text.decode()] * 2
    assert corpus.files["a.txt"] == corpus.files["b.txt.gz"] == hashlib.sha256(text).hexdigest()


def test_a_missing_corpus_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match=r"python tools/bootstrap_env\.py"):
        load_corpus(tmp_path / "sample.txt")


@pytest.mark.parametrize("damage", ["text", "manifest", "format"])
def test_a_damaged_corpus_is_not_used(tmp_path: Path, damage: str) -> None:
    path = write_corpus(tmp_path / "sample.txt")
    manifest = path.with_suffix(".json")
    if damage == "text":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(MissingAsset, match="bootstrap"):
        load_corpus(path)


@pytest.mark.parametrize(("name", "data"), [("empty.txt", b" \n"), ("torn.gz", b"\x1f\x8b12345678901")])
def test_a_text_that_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        load_corpus(tmp_path, [tmp_path / name])
