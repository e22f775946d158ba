"""What a comparison lacks, in sentences: rows that other tasks have, seeds, controls; and what was mixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from megacontext.evaluation.names import CONTROLS, FULL, ORACLE
from megacontext.evaluation.reporting.blocks import Points, Section
from megacontext.evaluation.reporting.study import LEAST_SEEDS, Entry, Part, TaskRows
from megacontext.evaluation.reporting.words import listed
from megacontext.evaluation.tasks import TASKS


def gaps(part: Part) -> Section:
    """Empty of blocks where nothing is missing."""
    found = [*_states_of_the_code(part), *_beside_others(part)]
    for task in part.tasks:
        found += [f"{task.title}: {words}" for words in (*_controls(task), *_seeds(task), *_rows(part, task))]
    title = "What is missing, and what was mixed"
    return Section(
        title, "gaps", 3, [Points(tuple(f"{words}." for words in found)) if found else "Nothing is missing."]
    )


def _controls(task: TaskRows) -> Iterator[str]:
    """Full, oracle and random belong into every table."""
    wanted = [name for name in CONTROLS if name != ORACLE or task.name not in TASKS or TASKS[task.name].has_sources]
    there = {budget: {entry.base for entry in (*task.at(None), *task.at(budget))} for budget in task.budgets}
    for name in wanted:
        at = [budget for budget, bases in there.items() if name not in bases]
        why = " (past the trained length it is no ceiling)" if name == FULL else ""
        if at:
            yield f"no row of {name} at {_sizes(at)}{why}"


def _sizes(budgets: Iterable[int]) -> str:
    return ", ".join(f"{budget:,}" for budget in budgets)


def _seeds(task: TaskRows) -> Iterator[str]:
    few = [_named(entry) for entry in task.entries if len(entry.seeds) < task.most_seeds]
    if few:
        yield f"fewer than {task.most_seeds} seeds, so not compared: {listed(few)}"
    if task.most_seeds < LEAST_SEEDS:
        yield f"{task.most_seeds} of {LEAST_SEEDS} seeds, so intervals say little"


def _named(entry: Entry) -> str:
    return entry.label if entry.budget is None else f"{entry.label} at {entry.budget:,}"


def _rows(part: Part, task: TaskRows) -> Iterator[str]:
    """Methods and budgets that other tasks of this setting have."""
    absent = [budget for budget in part.budgets if budget not in task.budgets]
    if absent:
        yield f"nothing at {_sizes(absent)} slots"
    missing: dict[tuple[int, ...], list[str]] = {}
    for label in dict.fromkeys(entry.label for entry in part.entries if not (entry.is_control or entry.is_variant)):
        elsewhere = {entry.budget for entry in part.entries if entry.label == label}
        at = tuple(budget for budget in task.budgets if budget in elsewhere and task.one(label, budget) is None)
        missing.setdefault(at, []).append(label)
    for at, labels in missing.items():
        if at:
            yield f"at {_sizes(at)} no row of {listed(labels)}"


def _states_of_the_code(part: Part) -> Iterable[str]:
    codes = {one.get("code") for entry in part.entries for one in entry.row["per_seed"]} - {None}
    if len(codes) > 1:
        yield f"Episodes were measured with {len(codes)} states of the source: {', '.join(sorted(map(str, codes)))}"


def _beside_others(part: Part) -> Iterable[str]:
    if any((one.get("jobs") or 1) > 1 for entry in part.entries for one in entry.row["per_seed"]):
        yield "Episodes ran beside each other: their seconds are no figures of speed"
