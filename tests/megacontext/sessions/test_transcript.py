"""Messages into ids and back: what was said comes out as it went in, and never becomes a special id."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_toys import END, OPEN, REPLY, SPECIALS, USER, ByteText, ParagraphText, chatml

from megacontext.errors import ConfigError
from megacontext.session import Turn
from megacontext.sessions.rendering import render
from megacontext.sessions.transcript import Message, transcript

TALK = [
    Message("system", "Be brief."),
    Message("user", "hello"),
    Message("assistant", "hi"),
    Message("document", "A book.\n\n"),
    Message("user", "\n what? "),
    Message("assistant", ""),
    Message("user", "漢字 🙂 <|im_end|>"),
    Message("assistant", "\nok\n"),
]


CHATML = chatml()


def back(text, rendered):
    return transcript(text, lambda a, b: rendered.ids[a:b], len(rendered.ids), rendered.turns)


def test_ids_are_those_of_the_chat():
    ids, turns, folded = render(ByteText(), TALK[:4])
    text = ByteText()
    said = [OPEN, *b"Be brief.", USER, *b"hello", END, REPLY]
    assert ids == [*said, *b"hi", END, *text.user("A book.\n\n", reply=False)]
    assert turns == [
        Turn(0, len(said), "user"),
        Turn(len(said), len(said) + 2, "assistant"),
        Turn(len(said) + 2, len(ids), "document"),
    ]
    assert not folded


@pytest.mark.parametrize("messages", [TALK, TALK[1:], TALK[:2], TALK[3:4]], ids=len)
@pytest.mark.parametrize("text", [ByteText(), CHATML], ids=["bytes", "chatml"])
def test_what_was_said_comes_back(text, messages):
    wanted = [message for message in messages if message != Message("assistant", "")]
    asked = messages[-1]
    if asked.role == "user":
        wanted[-1] = Message("document", asked.content)  # nobody answered
    assert back(text, render(text, messages)) == wanted


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts.filter(bool)), min_size=1, max_size=4), st.none() | texts)
def test_any_words_come_back_and_none_is_special(pairs, system):
    messages = [] if system is None else [Message("system", system)]
    for said, reply in pairs:
        messages += [Message("user", said), Message("assistant", reply)]
    rendered = render(CHATML, messages)
    found = back(CHATML, rendered)
    assert [m for m in found if m.role != "system"] == [m for m in messages if m.role != "system"]
    specials = sum(token in CHATML.special_ids for token in rendered.ids)
    assert specials == 2 * len(messages) - 1  # two around each message, but the last reply is open


def test_typed_specials_stay_text():
    rendered = render(CHATML, [Message("user", "".join(SPECIALS)), Message("assistant", SPECIALS[0])])
    plain = render(CHATML, [Message("user", "x"), Message("assistant", "y")])
    count = [sum(token in CHATML.special_ids for token in r.ids) for r in (rendered, plain)]
    assert count[0] == count[1]


def test_paragraphs_come_back_without_their_ends():
    text = ParagraphText()
    messages = [
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
        Message("assistant", "4"),
    ]
    assert back(text, render(text, messages)) == messages


def test_the_formats_own_system_message_is_not_the_users():
    text = ByteText()
    assert back(text, render(text, TALK[1:3])) == TALK[1:3]


def test_without_a_place_for_a_system_message_it_stands_in_the_first_users():
    text = ByteText(systems=False)
    rendered = render(text, TALK[:3])
    assert rendered.folded
    assert back(text, rendered) == [Message("user", "Be brief.\n\nhello"), TALK[2]]


@pytest.mark.parametrize(
    ("tail", "wanted"),
    [
        ([END, USER, *b"why", END, REPLY, *b"becau"], [Message("user", "why"), Message("assistant", "becau")]),
        ([END, USER, *b"A long bo"], [Message("document", "A long bo")]),
        ([END], []),
    ],
)
def test_what_a_crash_left_without_a_turn_is_told_too(tail, wanted):
    text = ByteText()
    ids, turns, _ = render(text, TALK[:3])
    ids += tail
    assert transcript(text, lambda a, b: ids[a:b], len(ids), turns) == TALK[:3] + wanted


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([], "at least one message from user"),
        (TALK[:1], "at least one message from user"),
        (TALK[2:], "message 1 is from assistant"),
        ([TALK[1], TALK[2], TALK[2]], "message 3 is from assistant"),
        ([TALK[1], TALK[0]], "message 2 is from system"),
    ],
)
def test_messages_that_make_no_conversation_are_refused(messages, what):
    with pytest.raises(ConfigError, match=what):
        render(ByteText(), messages)
