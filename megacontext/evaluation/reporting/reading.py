"""Rows of a report from files: which are of a comparison, which of speed. What is no row is refused, or told of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError
from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.reporting.shape import checked

SPLITS = ("test", "dev")
WAY_OUT = "rows come from `python -m megacontext.evaluation.compare --out FILE` and `...speed --out FILE`"


@dataclass
class Found:
    """compared: rows of memories on tasks, one a run. timed: rows of speed, and ratios. notes: what was left out."""

    compared: list[Row] = field(default_factory=list)
    timed: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_files(paths: Sequence[Path], split: str = "test") -> Found:
    """All rows of one split. Raises ConfigError for a file without rows, and if nothing of that split is there."""
    found, other = Found(), 0
    runs: dict[str, Row] = {}
    for path in paths:
        for row in _rows_of(path, found):
            if "task" not in row:
                found.timed.append(row)
            elif row["split"] != split:
                other += 1
            else:
                _keep(row, runs)
    found.compared = list(runs.values())
    if other:
        other_split = "development" if split == "test" else "test"
        found.notes.append(f"{other} rows of the {other_split} split are left out: splits are never mixed")
    if not found.compared and not found.timed:
        ways = " or ".join(f"--split {name}" for name in SPLITS if name != split)
        raise ConfigError(f"these files hold no row of the {split} split, {other} of another one: ask for {ways}")
    return found


def _keep(row: Row, runs: dict[str, Row]) -> None:
    """Of rows of one run the one with the most seeds; of equal ones the last."""
    before = runs.get(row["run"])
    if before is None or row["seeds"] >= before["seeds"]:
        runs[row["run"]] = row


def _rows_of(path: Path, found: Found) -> list[Row]:
    """The rows of one file, of either kind. Raises ConfigError if there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no text ({error.reason} at byte {error.start}); {WAY_OUT}") from error
    parsed = [(number, _parsed(text)) for number, text in enumerate(lines, 1) if text.strip()]
    rows = [checked(row, f"{path}, line {number}") for number, row in parsed if row is not None and _is_row(row)]
    if not rows:
        raise ConfigError(f"{path}: no row in {len(parsed)} lines; {WAY_OUT}")
    if len(rows) < len(parsed):
        found.notes.append(f"{path.name}: {len(parsed) - len(rows)} of {len(parsed)} lines are no rows and left out")
    return rows


def _parsed(text: str) -> Row | None:
    try:
        row = json.loads(text)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _is_row(row: Mapping[str, Any]) -> bool:
    return "history_tokens" in row and ("ratio" in row or "cache" in row)


def names_of(texts: Any) -> Iterable[str]:
    """`sample.txt (551dc14d)`: what was read, and its hash."""
    return (f"{name} ({str(digest)[:8]})" for name, digest in texts.items()) if isinstance(texts, dict) else ()
