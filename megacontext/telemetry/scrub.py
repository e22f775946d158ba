"""Keeps secrets out of what is recorded and shown. Secrets come from the environment only; this is the second line of
defence, for the day one ends up in a path, a setting, a message or a traceback.

What is hidden: text under a secret's name; the value of an environment variable that is named like a secret, wherever
it stands in a text; and what looks like a credential by its form (bearer tokens, passwords in URLs, the tokens of the
hubs). A value shorter than `SHORTEST` is not searched for: hiding every "1" would hide everything.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from megacontext.telemetry.events import Collapse, Event, Expand, Tick
from megacontext.telemetry.sinks import Sink

HIDDEN = "***"
SHORTEST = 6  # characters of a value that is searched for
LONGEST_COUNT = 10  # digits: what is longer is no number of tokens
SECRET_NAMES = re.compile(
    r"(^|[_.-])(tokens?|keys?|api_?keys?|secrets?|passwords?|passwd|passphrase|pass|credentials?|authorization)$",
    re.IGNORECASE,
)
COUNTED = re.compile(r"(tokens?|keys?)$", re.IGNORECASE)  # max_tokens: 12 is no secret, password: 12 is
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # apiKey -> api_Key
_CREDENTIAL = re.compile(
    r"""(?P<before>
        \bbearer\s+(?=[\w.~+/-]{8})
      | \bauthorization["']?\s*[:=]\s*["']?(?:\w+\s+(?=\S))?
      | (?<=://)[^\s/:@]*:(?=[^\s/@]+@)                                  # https://user:password@host
      | [?&](?:access_?token|api_?key|token|key|secret|password)=
      | --(?:[\w-]+-)?(?:token|api-?key|secret|password)(?:=|\s+(?=\S{8}))
      | (?=\b(?:hf|sk|ghp|gho|github_pat|glpat|xox[abp])[_-](?=[\w-]*\d)[\w-]{16})
      | (?=\bAKIA[0-9A-Z]{16})
    )
    (?P<secret>[^\s"'&,;@]+)""",
    re.IGNORECASE | re.VERBOSE,
)


def scrub(value: Any, environ: Mapping[str, str] | None = None) -> Any:
    """A copy of nested dicts, lists and texts without secrets. What is neither, nor a number, becomes text."""
    return _scrub(value, known_secrets(environ))


class ScrubSink:
    """A sink before a sink: whatever could carry free text leaves it scrubbed. Ticks and edits, which are many and
    carry the program's own words alone, pass as they are. The environment is read once: reading it takes longer than
    writing an event.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._secrets = known_secrets()

    def emit(self, event: Event) -> None:
        free = isinstance(event, (Tick, Expand, Collapse))
        self._sink.emit(event if free else scrub_event(event, self._secrets))

    def close(self) -> None:
        self._sink.close()


def scrub_event(event: Event, secrets: re.Pattern[str] | None) -> Event:
    """The event with its texts scrubbed."""
    values = ((name, getattr(event, name)) for name in event.__dataclass_fields__ if name != "type")
    found = {name: value for name, value in values if isinstance(value, (str, dict, list))}
    clean = {name: _scrub(value, secrets) for name, value in found.items()}
    return event if clean == found else replace(event, **clean)


def known_secrets(environ: Mapping[str, str] | None = None) -> re.Pattern[str] | None:
    """What finds the secrets of the environment in a text; None if it has none."""
    longest_first = sorted(secret_values(os.environ if environ is None else environ), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def secret_values(environ: Mapping[str, str]) -> set[str]:
    """The values worth hiding, in the forms that they take in texts."""
    found = {value.strip() for name, value in environ.items() if _hides(name, value.strip())}
    return {form for value in found if len(value) >= SHORTEST for form in _forms(value)}


def _forms(value: str) -> Iterator[str]:
    """As it is, as Python and JSON quote it, as a URL carries it."""
    yield from (value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value), quote(value, safe=""))


def _scrub(value: Any, secrets: re.Pattern[str] | None) -> Any:
    if isinstance(value, Mapping):
        return {_text_key(key, secrets): _item(key, item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_scrub(item, secrets) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _text(str(value), secrets)


def _text(text: str, secrets: re.Pattern[str] | None) -> str:
    if secrets is not None:
        text = secrets.sub(HIDDEN, text)
    return _CREDENTIAL.sub(rf"\g<before>{HIDDEN}", text)


def _text_key(key: Any, secrets: re.Pattern[str] | None) -> Any:
    return _text(key, secrets) if isinstance(key, str) else key


def _item(key: Any, value: Any, secrets: re.Pattern[str] | None) -> Any:
    if isinstance(value, Mapping):
        return _scrub(value, secrets)
    if isinstance(value, (list, tuple)):
        return [_item(key, item, secrets) for item in value]
    return HIDDEN if _hides(str(key), value) else _scrub(value, secrets)


def _hides(name: str, value: Any) -> bool:
    """Whether a value is a secret by its name. Counts, switches and nothing are none."""
    if not SECRET_NAMES.search(_HUMP.sub("_", name)) or value is None or isinstance(value, bool):
        return False
    text = str(value)
    counts = COUNTED.search(name) and len(text) < LONGEST_COUNT and text.replace(".", "", 1).isdigit()
    return bool(text) and not counts
