"""The tables of one task: every memory at every budget, then the task's named parts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from megacontext.evaluation.reporting.blocks import Block, Cell, Section, Table, cells, without_empty_columns
from megacontext.evaluation.reporting.figures import (
    DELTA,
    KL,
    NLL,
    Measure,
    Value,
    group_value,
    measure_of,
    share_below,
    value,
)
from megacontext.evaluation.reporting.standing import Standing, standing
from megacontext.evaluation.reporting.study import Entry, TaskRows
from megacontext.evaluation.reporting.words import DASH, apart, count, figure, listed, percent, scaled, spread

STREAMING = "streaming_llm"
DOCUMENT = "document"
LONG = 16  # letters: longer names of parts are numbered, and written below the table
MILLION, BILLION = 1e6, 1e9
LESS = "†"  # marks a part in which less context is better than all of it


def task_section(task: TaskRows) -> Section:
    """The task with all its tables."""
    measure = measure_of(task)
    blocks: list[Block] = [f"{measure.meaning[0].upper()}{measure.meaning[1:]}; {_seeds(task)}."]
    blocks.append(main_table(task, measure))
    for family, groups in families(task).items():
        blocks += group_tables(task, measure, family, groups)
    return Section(task.title, f"task {task.name}", 4, blocks)


def _seeds(task: TaskRows) -> str:
    most = task.most_seeds
    return f"{most} {'seed' if most == 1 else 'seeds'}"


# --- all of it ---


def main_table(task: TaskRows, measure: Measure) -> Table:
    """A row for each memory at each budget."""
    more = [other for other in (NLL, DELTA, KL) if other is not measure]
    heads = ("method", "budget", measure.words, "95 %", "less the best", *(other.words for other in more))
    heads += (f"% below {STREAMING}", "slots", "read", "MB", "GFLOP to choose", "s an episode")
    rows = []
    for budget in (None, *task.budgets):
        found = Standing() if budget is None else standing(task, budget, measure)
        rows += [_row(task, entry, measure, more, found) for entry in task.at(budget)]
    return without_empty_columns(Table(heads, tuple(rows)))


def _row(task: TaskRows, entry: Entry, measure: Measure, more: Sequence[Measure], found: Standing) -> tuple[Cell, ...]:
    row, mine, good = entry.row, value(entry, measure), entry.label in found.good
    return (
        Cell(f"{entry.label}{_fewer(task, entry)}", good),
        Cell(DASH if entry.budget is None else f"{entry.budget:,}"),
        Cell(figure(mine.mean, measure), good),
        *cells(spread(mine.interval, measure), apart(found.apart.get(entry.label), measure)),
        *cells(*(figure(row.get(other.key), other) for other in more)),
        Cell(_below(task, entry, measure)),
        *cells(count(row.get("slots")), count(row.get("read_slots"))),
        *cells(scaled(row.get("bytes"), MILLION), scaled(row.get("selection_flops"), BILLION)),
        Cell(scaled(row.get("seconds"), max(len(entry.seeds), 1))),
    )


def _fewer(task: TaskRows, entry: Entry) -> str:
    """A row of fewer seeds is of other texts: it says so, and does not compete."""
    seeds = len(entry.seeds)
    return "" if seeds == task.most_seeds else f" ({seeds} of {task.most_seeds} seeds)"


def _below(task: TaskRows, entry: Entry, measure: Measure) -> str:
    """How far the loss is below that of the window with sinks, at equal slots."""
    other = None if entry.budget is None else task.one(STREAMING, entry.budget)
    if measure is not DELTA or other is None or task.full is None or entry is other:
        return DASH
    return percent(*share_below(entry, other, task.full))


# --- its named parts ---


def families(task: TaskRows) -> dict[str, list[str]]:
    """Names of parts that differ in a number, or in a document's title, each in its order."""
    names = dict.fromkeys(name for entry in task.entries for name in entry.row.get("groups") or {})
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_family(name), []).append(name)
    return {family: sorted(mine, key=_number) for family, mine in found.items()}


def _family(name: str) -> str:
    if name.startswith(f"{DOCUMENT} "):
        return DOCUMENT
    return " ".join(re.sub(r"[\d.]+%?", " ", name).split()) if re.search(r"\d", name) else ""


def _number(name: str) -> tuple[float, str]:
    """Parts without a number keep their order: sorting is stable."""
    found = None if name.startswith(DOCUMENT) else re.search(r"\d+(\.\d+)?", name)
    return (float(found[0]), name) if found else (0.0, "")


def group_tables(task: TaskRows, measure: Measure, family: str, groups: Sequence[str]) -> list[Block]:
    """One table for each budget, `full` in each; for documents a line of those that do better with less."""
    shown, legend = _headings(family, groups)
    title = f"by {family}" if family else "by part"
    note = "; ".join(legend)
    found: list[Block] = []
    named: dict[str, list[str]] = {}
    for budget in task.budgets:
        mine = [*([task.full] if task.full else []), *task.at(budget)]
        values = {entry.label: [group_value(task, entry, measure, group) for group in groups] for entry in mine}
        heads = ("method", *shown)
        rows = _group_rows(task, measure, budget, groups, mine, values)
        table = Table(heads, rows, 1, f"{task.title}, {budget:,} slots, {title} ({measure.words})", note, folded=True)
        found.append(table)
        for entry in mine:
            for group, one in zip(groups, values[entry.label], strict=True):
                if _less_is_better(measure, entry, one):
                    named.setdefault(group, []).append(f"{entry.label} at {budget:,} ({figure(one.mean, measure)})")
    return [*found, *_named(named)]


def _group_rows(
    task: TaskRows,
    measure: Measure,
    budget: int,
    groups: Sequence[str],
    mine: Sequence[Entry],
    values: dict[str, list[Value]],
) -> tuple[tuple[Cell, ...], ...]:
    good = [standing(task, budget, measure, group).good for group in groups]
    rows = []
    for entry in mine:
        marks = [entry.label in best and entry.budget is not None for best in good]
        shown = [
            Cell(f"{figure(one.mean, measure)}{LESS * _less_is_better(measure, entry, one)}", mark)
            for one, mark in zip(values[entry.label], marks, strict=True)
        ]
        rows.append((Cell(entry.label), *shown))
    return tuple(rows)


def _less_is_better(measure: Measure, entry: Entry, one: Value) -> bool:
    """A budgeted memory's loss is below full attention's, and its interval too."""
    return measure is DELTA and entry.budget is not None and one.interval is not None and one.interval[1] < 0


def _named(named: dict[str, list[str]]) -> list[Block]:
    if not named:
        return []
    told = [f"{group}: {listed(who)}" for group, who in named.items()]
    return [f"{LESS} Less context is better than all of it, beyond the interval: {'; '.join(told)}."]


def _headings(family: str, groups: Sequence[str]) -> tuple[list[str], list[str]]:
    """Short column headings, and what they stand for where that is not plain."""
    if max(map(len, groups)) > LONG and family == DOCUMENT:
        legend = [f"{number}: {group.removeprefix(DOCUMENT).strip()}" for number, group in enumerate(groups, 1)]
        return [f"document {number}" for number in range(1, len(groups) + 1)], legend
    return [group.removeprefix(f"{family} ") if family else group for group in groups], []
