from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megacontext.config import ChatConfig
from megacontext.conversation import Conversation
from megacontext.errors import StoreError
from megacontext.models.base import LoadedModel
from megacontext.session import Session
from megacontext.telemetry.events import Event, Turn, Warning_
from megacontext.turns import words_of
from nanochat.hook import CacheUsage, KVCache, KVView, Mark, Stream

# A vocabulary of 256 bytes and specials. A turn is <user> text <end>, a reply follows <reply> and ends with <end>.
USER, REPLY, END, OPEN, STOP = range(256, 261)
VOCAB = 261


class ByteText:
    """Implements TextModel and ChatFormat: ids are bytes."""

    vocab_size = VOCAB
    fingerprint = "bytes"
    stop_ids = frozenset({END, STOP})

    @property
    def chat(self) -> ByteText:
        return self

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def opening(self, system: str | None) -> list[int]:
        return [OPEN, *self.encode(system or "")]

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        return [USER, *self.encode(text), END] + ([REPLY] if reply else [])

    def close(self) -> list[int]:
        return [END]


class FedCache(KVCache):
    """Remembers what it was fed with. chunk: rows of a pass."""

    def __init__(self, log: Session | None = None, chunk: int = 3) -> None:
        self.fed: list[int] = []
        self.log = log
        self.chunk = chunk
        self.prompts: list[list[int]] = []  # the words of each prompt that ended

    def maintain(self, model: object, *, prompt: int = 0, words: tuple[int, int] | None = None) -> None:
        if prompt:
            start = self.length - (prompt - 1)
            assert words is not None
            self.prompts.append(self.fed[start + words[0] : start + words[1]])

    def room(self, rows: int) -> int:
        return min(rows, self.chunk)

    def begin(self, stream: Stream) -> Tensor:
        assert stream.tokens is not None
        self.fed += stream.tokens[0].tolist()
        self.length = len(self.fed)
        if self.log is not None:
            assert self.log.tokens(0, self.length) == self.fed, "the log comes first"
        return torch.arange(stream.rows)[None]

    def update(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> KVView:
        raise NotImplementedError

    @property
    def usage(self) -> CacheUsage:
        return CacheUsage(self.length, self.length, self.length, 8 * self.length)

    def reset(self) -> None: ...

    def fork(self, batch: int = 1) -> KVCache:
        raise NotImplementedError

    def rollback(self, mark: Mark) -> None: ...


class BlankModel:
    """Runs a pass and says nothing; the sampler has the words."""

    class spec:
        device = torch.device("cpu")

    def embed(self, tokens: Tensor) -> Stream:
        return Stream(torch.zeros(*tokens.shape, 1), tokens)

    def forward(self, stream: Stream, cache: KVCache) -> Tensor:
        cache.begin(stream)
        return stream.x

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.zeros(1, hidden.shape[1], VOCAB)


class ListSink:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None: ...


class Table:
    """A conversation whose replies are given beforehand, with everything that can be looked at."""

    def __init__(self, *replies: list[int], session: Session | None = None, max_tokens: int = 50) -> None:
        script: Iterator[int] = (token for reply in replies for token in reply)
        if session is None:
            session = Session.open("", None, vocab=VOCAB, fingerprint="bytes", ephemeral=True)
        self.session = session
        self.cache = FedCache(self.session)
        self.sink = ListSink()
        loaded = LoadedModel(BlankModel(), ByteText(), "blank")  # type: ignore[arg-type]
        config = ChatConfig(system="S", max_tokens=max_tokens)
        self.conversation = Conversation(
            loaded, self.cache, self.session, config, sampler=lambda _: next(script), sink=self.sink
        )

    @property
    def logged(self) -> list[int]:
        return self.session.tokens(0, len(self.session))

    def say(self, text: str, **options) -> str:
        return "".join(self.conversation.say(text, **options))

    def turn(self) -> Turn:
        assert self.conversation.last is not None
        return self.conversation.last.event


def ids(*parts: int | str | bytes) -> list[int]:
    """ids(USER, "hi", END)"""
    found: list[int] = []
    for part in parts:
        found += [part] if isinstance(part, int) else list(part.encode() if isinstance(part, str) else part)
    return found


def test_a_turn_is_built_from_ids_and_ends_at_a_stop_id() -> None:
    table = Table(ids("yes", END))
    assert table.say("hi") == "yes"
    assert table.logged == ids(OPEN, "S", USER, "hi", END, REPLY, "yes")
    assert (table.turn().stop, table.turn().prompt_tokens, table.turn().generated_tokens) == ("stop", 7, 3)


def test_the_closing_ids_of_a_reply_stand_before_the_next_turn() -> None:
    table = Table(ids("a", STOP), ids("b", END))
    table.say("1")
    table.say("2")
    assert table.logged == ids(OPEN, "S", USER, "1", END, REPLY, "a", END, USER, "2", END, REPLY, "b")
    assert table.cache.fed == table.logged


def test_all_that_is_fed_was_logged_before_and_nothing_is_fed_twice() -> None:
    table = Table(ids("abc"), ids("def"), ids("g", END), max_tokens=3)
    for text in ("1", "2", "3"):
        table.say(text)
    table.conversation.read("doc")
    assert table.cache.fed == table.logged


def test_the_memory_is_told_which_tokens_somebody_said() -> None:
    table = Table(ids("a", END), ids("bcd"), ids("e", END), max_tokens=3)
    said = ["hi", "go on " * 500, "and now?"]
    for text in said:
        table.say(text)
    assert table.cache.prompts == [ids(text) for text in said]


def test_words_are_found_after_what_an_interrupted_prompt_left_over() -> None:
    table = Table(ids("b", END))
    table.say("a long prompt", cancelled=lambda: True)
    table.say("again")
    assert table.cache.prompts[-1] == ids("again")


def test_a_turn_of_the_format_alone_has_no_words() -> None:
    text = ByteText()
    assert words_of(text, 3, len(text.user(""))) is None  # type: ignore[arg-type]


def test_a_reply_ends_at_max_tokens() -> None:
    table = Table(ids("abcdef"), max_tokens=4)
    assert table.say("hi") == "abcd"
    assert table.turn().stop == "max_tokens"


@pytest.mark.parametrize("text", ["é", "漢字", "🙂🙂", "a🙂b", "ﷺ"])
def test_characters_split_over_tokens_arrive_whole(text: str) -> None:
    table = Table(ids(text, END))
    pieces = list(table.conversation.say("hi"))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_broken_tail_is_one_replacement_character() -> None:
    table = Table(ids("a", b"\xf0\x9f\x99", END))
    assert table.say("hi") == "a\ufffd"
    assert table.logged[-3:] == [0xF0, 0x9F, 0x99]


def test_a_reply_that_is_cancelled_stays_in_log_and_memory() -> None:
    table = Table(ids("a"), ids("c", END))
    said: list[str] = []
    for piece in table.conversation.say("hi", cancelled=lambda: len(said) == 1):
        said.append(piece)
    assert said == ["a"]
    assert table.turn().stop == "interrupted"
    table.say("on")
    assert table.logged == ids(OPEN, "S", USER, "hi", END, REPLY, "a", END, USER, "on", END, REPLY, "c")
    assert table.cache.fed == table.logged


def test_closing_the_stream_is_an_interrupt_too() -> None:
    table = Table(ids("abc"))
    stream = table.conversation.say("hi")
    next(stream)
    stream.close()
    assert table.turn().stop == "interrupted"
    assert table.turn().generated_tokens == 1


def test_a_prompt_that_is_cancelled_is_fed_with_the_next_turn() -> None:
    table = Table(ids("b", END))
    assert table.say("a long prompt", cancelled=lambda: True) == ""
    assert len(table.cache.fed) < len(table.logged)
    table.say("again")
    assert table.cache.fed == table.logged


def test_an_empty_reply_is_a_turn() -> None:
    table = Table(ids(END))
    assert table.say("hi") == ""
    assert table.turn().generated_tokens == 0


def test_a_document_is_a_turn_without_a_reply() -> None:
    table = Table(ids("x", END))
    steps: list[tuple[int, int]] = []
    result = table.conversation.read("book", name="book.txt", progress=lambda done, total: steps.append((done, total)))
    assert table.logged == ids(OPEN, "S", USER, "book", END)
    assert (result.event.stop, result.event.name, result.event.generated_tokens) == ("read", "book.txt", 0)
    assert steps[-1] == (8, 8)
    table.say("hi")
    assert table.logged == ids(OPEN, "S", USER, "book", END, USER, "hi", END, REPLY, "x")


def test_an_interrupted_document_ends_its_turn_where_it_was() -> None:
    table = Table(ids("x", END))
    result = table.conversation.read("word " * 500, cancelled=lambda: len(table.cache.fed) > 300)
    assert result.event.stop == "interrupted"
    assert table.logged[-1] == END
    assert 300 < len(table.logged) < 1000
    assert result.event.prompt_tokens == len(table.logged)
    table.say("hi")
    assert table.cache.fed == table.logged


def test_every_turn_is_an_event_with_its_figures() -> None:
    table = Table(ids("abcd", END))
    table.say("hi")
    (event,) = table.sink.events
    assert isinstance(event, Turn)
    assert event.ttft_ms is not None
    assert event.tokens_per_second is not None
    assert event.itl_p50_ms is not None
    assert event.itl_p95_ms >= event.itl_p50_ms
    assert event.history_tokens == len(table.logged)


def open_session(folder: Path) -> Session:
    return Session.open(folder, "s", vocab=VOCAB, fingerprint="bytes")


@pytest.mark.parametrize("reply", [ids("ab", END), ids("abcdef")], ids=["ended", "cut short"])
def test_a_session_goes_on_after_its_last_turn(tmp_path: Path, reply: list[int]) -> None:
    with open_session(tmp_path) as session:
        Table(reply, session=session, max_tokens=4).say("hi")
        before = session.tokens(0, len(session))
    with open_session(tmp_path) as session:
        table = Table(ids("z", END), session=session)
        assert table.conversation.resume() == (len(before), 0, "")
        assert len(before) == len(table.cache.fed)
        table.say("on")
        assert table.logged == before + ids(END, USER, "on", END, REPLY, "z")
        assert table.cache.fed == table.logged
        assert [turn.role for turn in session.turns] == ["user", "assistant"] * 2


def test_a_session_that_ends_with_a_document_has_no_reply_to_close(tmp_path: Path) -> None:
    with open_session(tmp_path) as session:
        Table(session=session).conversation.read("book")
    with open_session(tmp_path) as session:
        table = Table(ids("z", END), session=session)
        table.conversation.resume()
        table.say("on")
        assert table.logged == ids(OPEN, "S", USER, "book", END, USER, "on", END, REPLY, "z")
        assert [turn.role for turn in session.turns] == ["document", "user", "assistant"]


def test_a_disk_that_fails_ends_the_writing_and_not_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(ids("a", END), ids("b", END))

    def fail() -> None:
        raise StoreError("no space")

    monkeypatch.setattr(table.session, "sync", fail)
    assert table.say("1") == "a"
    assert table.say("2") == "b"
    assert str(table.conversation.store_failure) == "no space"
    assert sum(isinstance(event, Warning_) for event in table.sink.events) == 1


class KeptFiles:
    """Notes when the memory was kept."""

    def __init__(self) -> None:
        self.kept = 0

    def keep(self, memory: object, *, turn_end: bool = False) -> None:
        self.kept += 1

    def failure_of(self, memory: object) -> None:
        return None


@pytest.mark.parametrize("document", [False, True])
def test_what_is_broken_off_in_a_pass_is_a_turn_and_the_torn_memory_is_not_kept(document: bool) -> None:
    table = Table(ids("ab"))
    files = table.conversation._files = KeptFiles()  # type: ignore[assignment]

    def tear(*_: object) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.conversation.read("book", cancelled=tear) if document else table.say("hi", cancelled=tear)
    roles = [turn.role for turn in table.session.turns]
    assert roles == (["document"] if document else ["user"])
    assert table.session.turns[-1].stop == len(table.session)
    assert table.turn().stop == "interrupted"
    assert files.kept == 0


def test_a_stream_that_is_closed_between_tokens_is_kept() -> None:
    table = Table(ids("abc"))
    files = table.conversation._files = KeptFiles()  # type: ignore[assignment]
    stream = table.conversation.say("hi")
    next(stream)
    stream.close()
    assert files.kept == 1


def test_a_conversation_goes_on_in_another_log_of_the_same_ids(tmp_path: Path) -> None:
    table = Table(ids("a", END), ids("b", END))
    table.say("1")
    table.conversation.store_failure = StoreError("no space")
    with open_session(tmp_path) as session:
        with pytest.raises(ValueError, match="cannot take the place"):
            table.conversation.move_to(session)
        session.append(table.logged)
        table.cache.log = session
        table.conversation.move_to(session)
        assert table.say("2") == "b"
        assert session.tokens(0, len(session))[-1:] == ids("b")
    assert table.conversation.store_failure is None
