"""Rows of a comparison: one cache on one task at one budget, as a line of JSON or of a table. No tensors here.

run                               one hash of all that an episode of it depends on but its seed; of equal ones the last
cache, budget, settings           the memory by name, its slots (null: any number), its own settings as tuned
task, task_tokens, split, private what it was measured on; private: a hash of --private-seed, or null
model, dtype, device, threads, texts, config  with what
seeds, history_tokens, tokens     episodes; tokens seen, at most; tokens scored, in all
slots, read_slots, bytes          most slots resident, most slots that a row read, most bytes in memory, all included
disk_bytes, selection_flops       null where there is no file, or where the memory does not count them
accuracy, nll, delta_nll, kl      means over seeds; delta_nll is counted from `full`; null where not measured
groups                            means of named parts of the task
interval, against                 95 % intervals of those means, and of the paired differences to other rows
seconds, cpu_seconds              wall and processor time of all episodes (with jobs > 1 no figures of speed)
per_seed                          of each episode: the same by item, and seed, jobs, code (a hash of the source)

What they say is computed in `summary.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError
from nanochat.files import atomic_write

Row = dict[str, Any]

WIDE = 200  # columns of a table that goes to a file or a pipe
SHOWN = {
    **{"budget": "budget", "seeds": "seeds", "history_tokens": "history", "slots": "slots", "read_slots": "read"},
    **{"megabytes": "MB", "accuracy": "accuracy", "accuracy_interval": "95 %", "nll": "NLL"},
    **{"delta_nll": "ΔNLL", "delta_nll_interval": "95 %", "kl": "KL"},
}


def for_table(row: Row) -> Row:
    """The row, with what a table writes in another way: intervals as text, bytes in millions."""
    intervals = {f"{name}_interval": _spread(value) for name, value in row.get("interval", {}).items()}
    size = row.get("bytes")
    return {**row, **intervals, "megabytes": None if size is None else f"{size / 1e6:,.1f}"}


def _spread(value: Sequence[float] | None) -> str | None:
    return None if value is None else f"{value[0]:.2f} .. {value[1]:.2f}"


class RowFile:
    """Rows that are finished, one line each, so that an interrupted run can go on. path None keeps them nowhere."""

    def __init__(self, path: Path | None, *, resume: bool = False) -> None:
        """Raises ConfigError if there are rows already and `resume` was not asked for, or the file cannot be used."""
        self.path = path
        self.finished: dict[str, Row] = {}
        if path is None:
            return
        try:
            if path.exists():
                self._open(path, resume)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        except OSError as error:
            raise ConfigError(f"--out {path}: cannot be written ({error.strerror})") from error

    def _open(self, path: Path, resume: bool) -> None:
        if not resume and path.stat().st_size:
            raise ConfigError(f"--out {path}: there are rows already; --resume keeps them, or name another file")
        rows = read_rows([path])
        self.finished = {row["run"]: row for row in rows if "run" in row}
        with atomic_write(path) as file:  # a line that was torn when the run ended goes
            file.writelines(line(row).encode() for row in rows)

    def add(self, row: Row) -> None:
        """Keep `row`, unless it is there already."""
        key = row.get("run", line(row))
        if self.path is not None and self.finished.get(key) != row:
            self.finished[key] = row
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(line(row))


def line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """All rows of files of JSON lines, of those with one `run` the last; what is no JSON object is left out."""
    found: dict[str, Row] = {}
    for path in paths:
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(text)
            except ValueError:
                continue
            if isinstance(row, dict):
                found[row.get("run", text)] = row
    return list(found.values())


def print_table(rows: Sequence[Row], columns: Mapping[str, str], *, title: str = "") -> None:
    """Rows on stdout, `columns` (key -> heading) after the names of task and cache; what is missing is a dash.

    A column in which everything is missing is left out.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None)
    names = [name for name in ("task", "cache") if any(name in row for row in rows)]
    for name in names:
        table.add_column(name, no_wrap=True)
    columns = {key: heading for key, heading in columns.items() if any(row.get(key) is not None for row in rows)}
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for before, row in zip([None, *rows[:-1]], rows, strict=True):
        if before is not None and before.get("task") != row.get("task"):
            table.add_section()
        table.add_row(
            *(escape(str(row.get(name, ""))) for name in names), *(_cell(key, row.get(key)) for key in columns)
        )
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE).print(table)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:+.3f}" if key.startswith("delta") else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
