"""The sample corpus: the same bytes twice, documents long enough, damage noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import sample_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "sample.txt"
    sample_corpus.build(path)
    return path


def test_two_builds_give_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    again = sample_corpus.build(tmp_path / "sample.txt")
    assert again == sample_corpus.read_manifest(corpus)
    assert (tmp_path / "sample.txt").read_bytes() == corpus.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample.json", "sample.txt"]


def test_there_are_documents_enough_and_each_is_long(corpus: Path) -> None:
    documents = sample_corpus.documents(corpus)
    assert sum(len(text.encode()) > 60_000 for _, text in documents) >= sample_corpus.MIN_DOCUMENTS
    assert 1_500_000 < corpus.stat().st_size < 4_000_000
    assert len({title for title, _ in documents}) == len(documents)


def test_prose_comes_first(corpus: Path) -> None:
    titles = [title for title, _ in sample_corpus.documents(corpus)]
    assert titles[0].startswith("language reference")
    assert titles[-1].endswith(".py")


def test_no_docstring_stands_twice_under_one_name(corpus: Path) -> None:
    text = "".join(text for title, text in sample_corpus.documents(corpus) if "docstrings" in title)
    assert text.count("Buffered I/O implementation using an in-memory bytes buffer.") <= 1


def test_documents_tile_the_file_in_order(corpus: Path) -> None:
    manifest = sample_corpus.read_manifest(corpus)
    ends = [entry.end for entry in manifest.documents]
    starts = [entry.start for entry in manifest.documents]
    gap = len(sample_corpus.SEPARATOR)
    assert starts == [0, *(end + gap for end in ends[:-1])]
    assert ends[-1] + gap == manifest.bytes


def test_a_changed_text_is_noticed(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "sample.txt"
    path.write_bytes(corpus.read_bytes() + b"!")
    sample_corpus.manifest_path(path).write_bytes(sample_corpus.manifest_path(corpus).read_bytes())
    with pytest.raises(ValueError, match="build the corpus again"):
        sample_corpus.documents(path)
    assert not sample_corpus.is_built(path)


def test_a_python_without_sources_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sample_corpus.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(RuntimeError, match="full Python installation"):
        sample_corpus.build(tmp_path / "out" / "sample.txt")
    assert not (tmp_path / "out").exists()
