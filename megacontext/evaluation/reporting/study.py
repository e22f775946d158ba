"""Rows in order: what cannot be compared is apart, and within a part every task has its memories. No figures here.

A part is one model in one number format on one device and one set of texts, of one split. Rows of different parts are
never in one table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.names import FULL, MEGACONTEXT, ORACLE, RANDOM, all_names
from megacontext.evaluation.reporting.reading import names_of

LEAST_SEEDS = 3


class Setting(NamedTuple):
    """What a table's rows have in common. private: a hash, or ""; pages: number format on disk, "" if the model's."""

    model: str
    dtype: str
    device: str
    texts: tuple[str, ...]
    split: str
    private: str
    pages: str

    @property
    def heading(self) -> str:
        """`SmolLM2, bfloat16, cpu; text: sample.txt (551dc14d)`."""
        words = [", ".join((self.model, self.dtype, self.device)), f"text: {', '.join(self.texts) or 'not said'}"]
        words += [f"pages as {self.pages}"] if self.pages else []
        words += [f"private cases {self.private}"] if self.private else []
        words += ["development split: settings were chosen on it"] if self.split == "dev" else []
        return "; ".join(words)


@dataclass(frozen=True, eq=False)
class Entry:
    """One row, with the name that it has in this report."""

    label: str
    row: Row

    @property
    def base(self) -> str:
        """The memory's name without changes in brackets."""
        return str(self.row["cache"]).partition("[")[0]

    @property
    def budget(self) -> int | None:
        return self.row.get("budget")

    @property
    def seeds(self) -> frozenset[int]:
        return frozenset(one["seed"] for one in self.row["per_seed"])

    @property
    def is_ceiling(self) -> bool:
        """It has everything, or is told what is right: no method is measured by being as good."""
        return self.base == FULL or self.base.startswith(ORACLE)

    @property
    def is_control(self) -> bool:
        return self.is_ceiling or self.base == RANDOM

    @property
    def is_variant(self) -> bool:
        """A method changed by hand to see what a part of it is worth; it does not compete."""
        return "[" in self.label


@dataclass(frozen=True, eq=False)
class TaskRows:
    """A task at one length, and its memories: by budget, controls first."""

    name: str
    tokens: int
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        return f"{self.name}, {self.tokens:,} tokens"

    @property
    def budgets(self) -> list[int]:
        return sorted({entry.budget for entry in self.entries if entry.budget is not None})

    @property
    def full(self) -> Entry | None:
        return next((entry for entry in self.entries if entry.base == FULL and entry.budget is None), None)

    @property
    def most_seeds(self) -> int:
        return max(len(entry.seeds) for entry in self.entries)

    def at(self, budget: int | None) -> list[Entry]:
        return [entry for entry in self.entries if entry.budget == budget]

    def competing(self, budget: int) -> list[Entry]:
        """Who may be the best there: methods with all seeds of the task."""
        complete = [entry for entry in self.at(budget) if len(entry.seeds) == self.most_seeds]
        return [entry for entry in complete if not entry.is_ceiling and not entry.is_variant]

    def one(self, label: str, budget: int | None) -> Entry | None:
        return next((entry for entry in self.at(budget) if entry.label == label), None)


@dataclass(frozen=True, eq=False)
class Part:
    """All tasks of one setting."""

    setting: Setting
    tasks: tuple[TaskRows, ...]

    @property
    def budgets(self) -> list[int]:
        return sorted({budget for task in self.tasks for budget in task.budgets})

    @property
    def entries(self) -> list[Entry]:
        return [entry for task in self.tasks for entry in task.entries]

    def labels(self, budget: int | None) -> list[str]:
        """The memories that are there with so many slots on any task, in the order of a table."""
        found = {entry.label: entry for task in self.tasks for entry in task.at(budget)}
        return sorted(found, key=lambda label: _rank(found[label]))


def parts_of(rows: Sequence[Row]) -> list[Part]:
    """The rows of a comparison, apart by setting, in the order in which they came."""
    apart: dict[Setting, list[Row]] = {}
    for row in rows:
        apart.setdefault(setting_of(row), []).append(row)
    return [Part(setting, tuple(_tasks(mine))) for setting, mine in apart.items()]


def setting_of(row: Row) -> Setting:
    texts = tuple(names_of(row.get("texts")))
    more = (str(row.get(name) or "") for name in ("private", "pages"))
    return Setting(row["model"], row["dtype"], str(row.get("device", "")), texts, row["split"], *more)


def _tasks(rows: Sequence[Row]) -> Iterable[TaskRows]:
    by_task: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        by_task.setdefault((row["task"], row["task_tokens"] or 0), []).append(row)
    several = _settings_by_name(rows)
    for (name, tokens), mine in by_task.items():
        entries = [Entry(label, row) for label, row in zip(_labels(mine, several), mine, strict=True)]
        yield TaskRows(name, tokens, tuple(sorted(entries, key=_order)))


def _order(entry: Entry) -> tuple[Any, ...]:
    return entry.budget or 0, *_rank(entry)


def _rank(entry: Entry) -> tuple[Any, ...]:
    """Ceilings, the floor, ours, other people's; changed ones after the method that they change."""
    names = all_names()
    first = (FULL, ORACLE, RANDOM, MEGACONTEXT)
    near = first.index(entry.base) if entry.base in first else 1.5 if entry.is_ceiling else len(first)
    return near, names.index(entry.base) if entry.base in names else len(names), entry.is_variant, entry.label


# --- names that are each of one thing ---


def _settings_by_name(rows: Iterable[Row]) -> dict[tuple[str, Any], set[str]]:
    found: dict[tuple[str, Any], set[str]] = {}
    for row in rows:
        found.setdefault((row["cache"], row.get("budget")), set()).add(_written(row))
    return found


def _written(row: Row) -> str:
    return json.dumps(row.get("settings") or {}, sort_keys=True)


def _labels(rows: Sequence[Row], several: dict[tuple[str, Any], set[str]]) -> list[str]:
    """The memory's name; with its settings where it is there with several; with its run where that is not enough."""
    labels = []
    for row in rows:
        name, place = row["cache"], (row["cache"], row.get("budget"))
        labels.append(f"{name} {_short(row)}" if len(several[place]) > 1 else name)
    places = [(label, row.get("budget")) for label, row in zip(labels, rows, strict=True)]
    again = {place for place in places if places.count(place) > 1}
    return [
        f"{label} ({row['run'][:6]})" if place in again else label
        for label, place, row in zip(labels, places, rows, strict=True)
    ]


def _short(row: Row) -> str:
    return ",".join(f"{key}={value}" for key, value in (row.get("settings") or {}).items()) or "by default"
