"""Keeps secrets out of what is recorded. Secrets come from the environment only; this is the second line of defence."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

SECRET_NAMES = re.compile(r"(^|[_.-])(tokens?|keys?|apikey|secrets?|passwords?|passwd|credentials?)$", re.IGNORECASE)
SECRET_VARIABLES = ("HF_TOKEN", "WANDB_API_KEY")
HIDDEN = "***"


def scrub(value: Any, environ: Mapping[str, str] | None = None) -> Any:
    """A copy of nested dicts, lists and strings without secrets: neither under a secret's name nor by its value."""
    values = os.environ if environ is None else environ
    return _scrub(value, [values[name] for name in SECRET_VARIABLES if values.get(name)])


def _scrub(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: HIDDEN if _hides(key, item) else _scrub(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrub(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, HIDDEN)
    return value


def _hides(key: object, value: Any) -> bool:
    """A number under such a name (max_tokens) is no secret."""
    return isinstance(value, str) and bool(SECRET_NAMES.search(str(key)))
