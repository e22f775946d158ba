"""Chat formats that come as a Jinja template in a model's files.

A template never sees what people type. It is rendered once with private marker words in the place of contents; what
stands around the markers is the format's own text, in which special tokens are special, and contents are put between
as ordinary text. So the ids equal those of transformers' `apply_chat_template`, except where somebody typed the text
of a special token: there it stays text.

Not every template can be taken apart in turns: one that rewrites earlier turns, or that folds the system message into
the first user's, is refused with a clear error.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from megacontext.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Template

    from megacontext.models.text import TokenizersText

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
# Texts of tokens that end a turn in one family or another; those that a vocabulary marks as special stop a reply.
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "</s>")


def give_chat(text: TokenizersText, template: str | None, variables: dict[str, Any]) -> None:
    """The template's format, and its own end of a turn among the ids that stop a reply; else turns stay paragraphs."""
    ends = {text.specials[end] for end in TURN_ENDS if end in text.specials}
    if template is None:
        text.stop_ids = text.stop_ids | ends
        return
    chat = TemplateChat(template, text, variables)
    text.chat, text.stop_ids = chat, text.stop_ids | ends | chat.stop_ids


class Literal(str):
    """The format's own text: specials in it are meant."""


class Frame(NamedTuple):
    """What stands around a content. stripped: the template strips the white space around it."""

    before: Literal
    after: Literal
    stripped: bool

    def around(self, content: str) -> list[str]:
        return [self.before, content.strip() if self.stripped else content, self.after]


class TemplateChat:
    """Implements `ChatFormat` over a Jinja template. variables: bos_token, eos_token and others it may name."""

    def __init__(self, source: str, text: TokenizersText, variables: dict[str, Any] | None = None) -> None:
        """Raises ConfigError if the template cannot be compiled, fails, or cannot be taken apart in turns."""
        self._template, self._text, self._variables = _compile(source), text, variables or {}
        self._marks = {role: [f"{role}{secrets.token_hex(8)}" for _ in range(2)] for role in (SYSTEM, USER, ASSISTANT)}
        self._close, self._generation, self._user  # noqa: B018 - fail now rather than in the middle of a conversation

    def opening(self, system: str | None) -> list[int]:
        """What stands before the first turn: the system message, or what the template puts where there is none."""
        if system is None:
            return self._encode([self._head([])])
        head = self._head([self._message(SYSTEM)])
        before, found, after = head.partition(self._mark(SYSTEM))
        if not found:
            raise ConfigError("this model's chat template has no place for a system message; leave it out")
        return self._encode(Frame(Literal(before), Literal(after), self._strips(SYSTEM)).around(system))

    def user(self, text: str, *, reply: bool = True) -> list[int]:
        """One user turn; with `reply`, the header of the assistant's reply follows."""
        return self._encode([*self._user.around(text), *([self._generation] if reply else [])])

    def close(self) -> list[int]:
        """What ends an assistant's reply."""
        return self._encode([self._close])

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The first special of what ends a reply."""
        ids = [token for token in self.close() if token in self._text.special_ids]
        return frozenset(ids[:1])

    @cached_property
    def _user(self) -> Frame:
        """From the second turn: the first may have an opening before it."""
        past = [self._message(USER), self._message(ASSISTANT)]
        turn = self._added(past, self._message(USER, 1))
        before, found, after = turn.partition(self._mark(USER, 1))
        if not found:
            raise ConfigError("this model's chat template leaves out what the user says")
        return Frame(Literal(before), Literal(after), self._strips(USER))

    @cached_property
    def _generation(self) -> Literal:
        messages = [self._message(USER)]
        plain, full = self._render(messages), self._render(messages, add_generation_prompt=True)
        if not full.startswith(plain):
            raise ConfigError("this model's chat template changes the turns when a reply is asked for: not supported")
        return Literal(full[len(plain) :])

    @cached_property
    def _close(self) -> Literal:
        turn = self._added([self._message(USER)], self._message(ASSISTANT))
        _, found, after = turn.partition(self._mark(ASSISTANT))
        if not found:
            raise ConfigError("this model's chat template leaves out what the assistant says")
        return Literal(after)

    def _head(self, system: list[dict[str, str]]) -> Literal:
        """All that stands before the first user turn."""
        before = self._render([*system, self._message(USER)]).partition(self._mark(USER))[0]
        if not before.endswith(self._user.before):
            raise ConfigError("this model's chat template folds the system message into the first turn; leave it out")
        return Literal(before[: len(before) - len(self._user.before)])

    def _added(self, past: list[dict[str, str]], message: dict[str, str]) -> str:
        short, full = self._render(past), self._render([*past, message])
        if not full.startswith(short):
            raise ConfigError("this model's chat template rewrites earlier turns: not supported")
        return full[len(short) :]

    def _strips(self, role: str) -> bool:
        probe = {"role": role, "content": f" {self._mark(role)} "}
        messages = [probe, self._message(USER, 1)] if role == SYSTEM else [probe]
        return probe["content"] not in self._render(messages)

    def _mark(self, role: str, number: int = 0) -> str:
        return self._marks[role][number]

    def _message(self, role: str, number: int = 0) -> dict[str, str]:
        return {"role": role, "content": self._mark(role, number)}

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        variables = {**self._variables, "messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render(**variables, tools=None, documents=None)
        except Exception as error:  # a template is a program, and fails in any way there is
            roles = ", ".join(message["role"] for message in messages)
            raise ConfigError(f"this model's chat template refuses the turns {roles}: {error}") from None

    def _encode(self, parts: list[str]) -> list[int]:
        """Neighbouring stretches of text are encoded together, as if the whole had been one string."""
        ids: list[int] = []
        waiting = ""
        for part in parts:
            for piece in self._text.split_specials(part) if isinstance(part, Literal) else [part]:
                if isinstance(piece, int):
                    ids += [*self._plain(waiting), piece]
                    waiting = ""
                else:
                    waiting += piece
        return ids + self._plain(waiting)

    def _plain(self, text: str) -> list[int]:
        return self._text.encode(text) if text else []


@lru_cache(maxsize=4)
def _compile(source: str) -> Template:
    """In the sandbox, with the filters and functions that transformers gives to templates."""
    from jinja2.exceptions import TemplateError, TemplateSyntaxError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %} marks what a trainer learns from; here it only passes through."""

        tags = {"generation"}  # noqa: RUF012 - the library's way

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **layout)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise ConfigError(f"this model's chat template cannot be read, line {error.lineno}: {error.message}") from None
    except Exception as error:  # the library makes Python of it
        raise ConfigError(f"this model's chat template cannot be read: {error}") from None
