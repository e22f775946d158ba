"""What a decode demo reads: ids one for one, so that places can be counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from megacontext.errors import ConfigError, MissingAsset
from tools.legacy.config import CorpusConfig
from tools.legacy.prompt import BREAK, beginning, configured_prompt, own_prompt, read_prompt


class Letters:
    """A text side with one id a letter, and one that begins a text."""

    begin = (1,)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Words(Letters):
    """One id a word: many letters an id."""

    begin = ()

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("abcdefghij" * 30, encoding="utf-8")
    return path


def test_a_prompt_of_ones_own_is_exactly_that() -> None:
    prompt = own_prompt(Letters(), "  two\n words \n")
    assert Letters().decode(prompt.ids[1:]) == "  two\n words \n"
    assert (prompt.ids[0], prompt.words, prompt.from_corpus) == (1, (1, 15), 0)


def test_the_configured_prompt_follows_the_beginning_of_the_corpus(corpus: Path) -> None:
    prompt = configured_prompt(Letters(), "what?", CorpusConfig(corpus=str(corpus), corpus_tokens=15))
    assert Letters().decode(prompt.ids[1:]) == "abcdefghijabcde" + BREAK + "what?"
    assert Letters().decode(prompt.ids[slice(*prompt.words)]) == "what?"
    assert prompt.from_corpus == 15


def test_without_corpus_tokens_no_corpus_is_needed() -> None:
    demo = CorpusConfig(corpus="nowhere.txt")
    assert configured_prompt(Letters(), "what?", demo) == own_prompt(Letters(), "what?")


def test_an_empty_prompt_is_refused_but_not_behind_a_corpus(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="the prompt is empty"):
        own_prompt(Letters(), "")
    prompt = configured_prompt(Letters(), "", CorpusConfig(corpus=str(corpus), corpus_tokens=15))
    assert prompt.words == (1, len(prompt.ids))


def test_the_corpus_gives_as_many_tokens_as_asked_for_or_all(tmp_path: Path) -> None:
    path = tmp_path / "long_words.txt"
    path.write_text("a-word-of-some-forty-letters-or-thereabouts " * 200, encoding="utf-8")
    assert len(beginning(Words(), path, 50)) == 50
    assert len(beginning(Words(), path, 500)) == 200


def test_a_missing_corpus_names_what_makes_it_and_what_does_without(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match=r"bootstrap_env.py --only corpus.*--prompt TEXT"):
        beginning(Letters(), tmp_path / "none.txt", 5)


def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--prompt-file .*none.txt: cannot be read"):
        read_prompt(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert read_prompt(tmp_path / "latin.txt") == "caf\ufffd"
