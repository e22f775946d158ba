"""What a row must look like for a report to be made of it. Raises ConfigError that names the row and the field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from megacontext.errors import ConfigError
from megacontext.evaluation.comparison.rows import Row

Is = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _words(value: Any) -> bool:
    return isinstance(value, str)


def _or_null(kind: Is) -> Is:
    return lambda value: value is None or kind(value)


def _figures(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _named(kind: Is) -> Is:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _interval(value: Any) -> bool:
    return _figures(value) and len(value) == 2


MUST: dict[str, Is] = {
    **dict.fromkeys(("run", "task", "cache", "split", "model", "dtype"), _words),
    **dict.fromkeys(("task_tokens", "seeds"), _whole),
    "per_seed": lambda value: isinstance(value, list) and bool(value),
    "interval": _named(_or_null(_interval)),
}
MAY: dict[str, Is] = {
    **dict.fromkeys(("budget", "slots", "read_slots", "history_tokens"), _or_null(_whole)),
    **dict.fromkeys(("bytes", "selection_flops", "seconds", "accuracy", "nll", "delta_nll", "kl"), _or_null(_number)),
    "groups": _named(_or_null(_number)),
    "settings": _or_null(_named(lambda value: True)),
}
EPISODE_MAY: dict[str, Is] = {
    **dict.fromkeys(("accuracy", "kl", "jobs"), _or_null(_number)),
    **dict.fromkeys(("items", "item_nll"), _or_null(_figures)),
    "groups": _named(_or_null(_figures)),
}
TIMED_MAY: dict[str, Is] = {
    **dict.fromkeys(("cache", "ratio"), _words),
    "history_tokens": _whole,
    **dict.fromkeys(("slots", "read_slots", "trained_positions"), _or_null(_whole)),
    **dict.fromkeys(("decode_ms_p50", "decode_ms_p95", "decode_tokens_per_s", "ttft_ms"), _or_null(_number)),
    **dict.fromkeys(("prefill_tokens_per_s", "resident_bytes", "value"), _or_null(_number)),
    "quartiles": _or_null(_figures),
}


def checked(row: Row, where: str) -> Row:
    """The row. where: its file and line. Raises ConfigError for one of another version, or damaged."""
    if "task" not in row:
        _refuse(_wrong(row, TIMED_MAY), where)
        return row
    missing = [name for name in MUST if name not in row]
    if missing:
        raise ConfigError(f"{where}: a row of another version, without {', '.join(missing)}; measure it again")
    _refuse([*_wrong(row, MUST), *_wrong(row, MAY)], where)
    for one in row["per_seed"]:
        if not isinstance(one, dict) or not _whole(one.get("seed")):
            raise ConfigError(f"{where}: per_seed is no list of episodes, each with its seed; measure it again")
        _refuse(_wrong(one, EPISODE_MAY), f"{where}, seed {one['seed']}")
    return row


def _wrong(row: Mapping[str, Any], kinds: Mapping[str, Is]) -> Iterator[str]:
    return (f"{name} is {row[name]!r:.40}" for name, fits in kinds.items() if name in row and not fits(row[name]))


def _refuse(wrong: Iterator[str] | list[str], where: str) -> None:
    found = list(wrong)
    if found:
        raise ConfigError(f"{where}: {'; '.join(found)}, which no row says; measure it again")
