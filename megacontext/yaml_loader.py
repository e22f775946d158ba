"""Strict YAML: one document in, plain values and the line of each out.

Built on PyYAML's event stream (the C parser where it is compiled in), not on its constructors, because those read
`1e-3` as a string and `no` as False and keep the last of two equal keys silently. Here:
- plain scalars follow the YAML 1.2 core schema (null, true/false, decimal, 0o and 0x integers, floats);
- a repeated key, a tag, a merge key or a second document is refused;
- size, depth and the number of aliases are capped, so that no file can exhaust memory or the stack.

Knows nothing about what the values mean; `config.py` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from megacontext.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_ALIASES = 16

Path = tuple[str | int, ...]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(?:(inf|Inf|INF)|(nan|NaN|NAN))")
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)
_MAX_DIGITS = 400  # Python itself refuses to read integers beyond some thousand digits


@dataclass(frozen=True)
class Document:
    """A parsed document: its value and, per path of keys and indexes, the line (from 1) where it stands."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)


def parse_scalar(text: str) -> Any:
    """A plain scalar by the YAML 1.2 core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _SPECIAL_FLOAT.fullmatch(text)
    if special:
        return float(f"{special[1]}{'inf' if special[2] else 'nan'}")
    return text


def parse_yaml(data: str | bytes, name: str = "<yaml>") -> Document:
    """Parse one document; JSON is one, too. `name` stands in messages as the file, and says whether it is JSON.

    Raises ConfigError, with file and line, for anything that is not one well-formed document within the caps.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: {len(data)} bytes, a config has at most {MAX_BYTES}: is this the right file?")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        text = _PAIR.sub(_joined, text) if name.endswith(".json") else text
        return _Builder(text.removeprefix("\ufeff"), name).document()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 text (byte {error.start}): save the file as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


class _Builder:
    """Turns the events of one document into values."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self.lines: dict[Path, int] = {}
        self.anchors: dict[str, Any] = {}
        self.aliases = 0

    def document(self) -> Document:
        next(self.events)  # stream start
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return Document(None)
        value = self.node(next(self.events), ())
        next(self.events)  # document end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.refuse(event, "a second document: a config file holds one")
        return Document(value, self.lines)

    def node(self, event: Any, path: Path) -> Any:
        self.lines[path] = _line(event)
        if len(path) > MAX_DEPTH:
            raise self.refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.tag is not None:
            raise self.refuse(event, f"the tag {event.tag!r}: plain values only")
        value = self.untagged(event, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value

    def untagged(self, event: Any, path: Path) -> Any:
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        return parse_scalar(event.value) if event.implicit[0] else event.value

    def mapping(self, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                raise self.refuse(event, "a key must be a plain word")
            key = event.value
            at, line = (*path, key), _line(event)
            if key in result:
                first = self.lines[at]
                raise self.refuse(event, f"key {key!r} stands here and in line {first}: keep one of them")
            result[key] = self.node(next(self.events), at)
            self.lines[at] = line
        return result

    def sequence(self, path: Path) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            result.append(self.node(event, (*path, len(result))))
        return result

    def alias(self, event: Any) -> Any:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise self.refuse(event, f"more than {MAX_ALIASES} aliases")
        if event.anchor not in self.anchors:
            raise self.refuse(event, f"alias *{event.anchor} has no finished anchor before it")
        return self.anchors[event.anchor]

    def refuse(self, event: Any, why: str) -> ConfigError:
        return ConfigError(f"{self.name}:{_line(event)}: {why}")


def _joined(pair: re.Match[str]) -> str:
    """JSON writes a letter beyond U+FFFF as two escapes, which YAML knows as one letter."""
    return pair[1] + bytes.fromhex(pair[2] + pair[3]).decode("utf-16-be")


def _line(event: Any) -> int:
    """Where an event begins, from 1."""
    return event.start_mark.line + 1
