"""The event log's schema: generated from the event dataclasses, used to check lines that were read.

Checking costs too much for the hot path; `tools/validate_log.py` and the tests do it. pydantic is imported on use.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from megacontext.telemetry.events import EVENT_TYPES, SCHEMA_VERSION
from megacontext.telemetry.metrics import METRICS

_TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$"
_ENVELOPE: dict[str, dict[str, Any]] = {
    "v": {"type": "integer", "const": SCHEMA_VERSION, "description": "schema version"},
    "seq": {"type": "integer", "minimum": 0, "description": "line number from 0, without gaps"},
    "time": {"type": "string", "pattern": _TIME, "description": "ISO 8601, UTC, milliseconds"},
    "type": {"type": "string"},
    "run": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$", "description": "name of the run"},
}
_JSON_TYPES = {"integer": int, "string": str}


class InvalidEvent(ValueError):
    """A line that is no event of this schema."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one line of the log."""
    schemas = [_event_schema(name) for name in EVENT_TYPES]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"MegaContext event log, version {SCHEMA_VERSION}: one line",
        "oneOf": schemas,
    }


def validate_line(line: bytes | str) -> dict[str, Any]:
    """One line of a log as a record. Raises InvalidEvent with the reason."""
    try:
        record = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"not a JSON object: {error}") from None
    if not isinstance(record, dict):
        raise InvalidEvent(f"not a JSON object but a {type(record).__name__}")
    _check_envelope(record)
    _check_payload(record["type"], {name: value for name, value in record.items() if name not in _ENVELOPE})
    return record


def _check_envelope(record: dict[str, Any]) -> None:
    rule: dict[str, Any]
    for name, rule in _ENVELOPE.items():
        if name not in record:
            raise InvalidEvent(f"{name}: missing")
        value = record[name]
        if not isinstance(value, _JSON_TYPES[rule["type"]]) or isinstance(value, bool):
            raise InvalidEvent(f"{name}: {value!r} is no {rule['type']}")
        if "pattern" in rule and not re.match(rule["pattern"], str(value)):
            raise InvalidEvent(f"{name}: {value!r} does not look like {rule['pattern']}")
    if record["v"] != SCHEMA_VERSION:
        raise InvalidEvent(f"v: {record['v']}, this program reads version {SCHEMA_VERSION}")
    if record["seq"] < 0:
        raise InvalidEvent(f"seq: {record['seq']} is negative")
    if record["type"] not in EVENT_TYPES:
        raise InvalidEvent(f"type: {record['type']!r} is none of {', '.join(EVENT_TYPES)}")


def _check_payload(kind: str, payload: dict[str, Any]) -> None:
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_json(json.dumps(payload), strict=True)
    except ValidationError as error:
        raise InvalidEvent(_reasons(error)) from None


@cache
def _adapter(kind: str) -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    strict = with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
    return TypeAdapter(strict(EVENT_TYPES[kind]))


def _event_schema(kind: str) -> dict[str, Any]:
    own = _adapter(kind).json_schema()
    envelope = _ENVELOPE | {"type": {"const": kind}}
    return {
        "title": kind,
        "description": own.get("description", ""),
        "type": "object",
        "properties": envelope | {name: _present(name, field) for name, field in own.get("properties", {}).items()},
        "required": [*envelope, *own.get("required", [])],
        "additionalProperties": False,
    }


def _present(name: str, field: dict[str, Any]) -> dict[str, Any]:
    """A field as the log has it, absent rather than null, with what the metrics table says of it.

    Only what checks a value is kept: the rest differs from one version of pydantic to the next.
    """
    options = [option for option in field.get("anyOf", [field]) if option != {"type": "null"}]
    assert len(options) == 1, f"{name}: a field of an event has one type"
    kept = {key: options[0][key] for key in ("type", "items", "additionalProperties") if key in options[0]}
    if kept.get("additionalProperties") is True:
        del kept["additionalProperties"]
    metric = METRICS.get(name)
    return kept if metric is None else kept | {"description": f"{metric.meaning} [{metric.unit}]"}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _reasons(error: Any) -> str:
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
