"""A conversation as token ids, and the mask that says which of them the assistant is trained on.

    bos (user_start text user_end assistant_start content assistant_end)*

Content is a text, or a list of parts: text, python (a tool call), python_output (what the tool answered). The mask is 1
on what the assistant itself has to say: its text, its tool calls, its assistant_end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Conversation = Mapping[str, Any]


class Encoder(Protocol):
    """What rendering needs of a tokenizer."""

    def encode_special(self, text: str) -> int: ...

    def get_bos_token_id(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


def render(encoder: Encoder, conversation: Conversation, max_tokens: int | None = 2048) -> tuple[list[int], list[int]]:
    """Returns (ids, mask), both cut to `max_tokens` (None: not cut). Raises ValueError for a malformed conversation."""
    ids, mask = [encoder.get_bos_token_id()], [0]

    def add(tokens: int | list[int], trained: int) -> None:
        tokens = [tokens] if isinstance(tokens, int) else tokens
        ids.extend(tokens)
        mask.extend([trained] * len(tokens))

    for message in merge_system(conversation["messages"]):
        role = message["role"]
        add(encoder.encode_special(f"<|{role}_start|>"), 0)
        for part, trained in _parts(encoder, message):
            add(part, trained)
        add(encoder.encode_special(f"<|{role}_end|>"), int(role == "assistant"))
    return ids[:max_tokens], mask[:max_tokens]


def render_prompt(encoder: Encoder, conversation: Conversation) -> list[int]:
    """The conversation without its last message, ready for the assistant to write that message."""
    messages = conversation["messages"]
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError("a conversation to complete must end with the assistant's message, which is left out")
    ids, _ = render(encoder, {"messages": messages[:-1]}, max_tokens=None)
    return [*ids, encoder.encode_special("<|assistant_start|>")]


def merge_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put a system message into the user message behind it, and check that user and assistant take turns."""
    rest = list(messages)
    if rest and rest[0]["role"] == "system":
        system = rest.pop(0)
        if not rest or rest[0]["role"] != "user":
            raise ValueError("a system message must be followed by a user message")
        rest[0] = {**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}
    if not rest:
        raise ValueError("a conversation needs at least one message from the user")
    for place, message in enumerate(rest):
        expected = ("user", "assistant")[place % 2]
        if message["role"] != expected:
            raise ValueError(f"message {place} is from {message['role']!r}, it should be from {expected!r}")
    return rest


def _parts(encoder: Encoder, message: Mapping[str, Any]) -> list[tuple[int | list[int], int]]:
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return [(encoder.encode(content), int(role == "assistant"))]
    if role != "assistant" or not isinstance(content, list):
        raise ValueError(f"content of a {role} message must be text, got {type(content).__name__}")
    return [piece for part in content for piece in _assistant_part(encoder, part)]


def _assistant_part(encoder: Encoder, part: Mapping[str, Any]) -> list[tuple[int | list[int], int]]:
    kind, text = part["type"], encoder.encode(part["text"])
    special = encoder.encode_special
    if kind == "text":
        return [(text, 1)]
    if kind == "python":
        return [(special("<|python_start|>"), 1), (text, 1), (special("<|python_end|>"), 1)]
    if kind == "python_output":  # comes from the tool, so it is not trained on
        return [(special("<|output_start|>"), 0), (text, 0), (special("<|output_end|>"), 0)]
    raise ValueError(f"unknown part type {kind!r}; known: text, python, python_output")
