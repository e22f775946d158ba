"""Tables over all tasks of one setting: the summary at each budget, where ours is not the best, what each ran with."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.baselines.registry import METHODS
from megacontext.evaluation.names import MEGACONTEXT, RANDOM
from megacontext.evaluation.reporting.blocks import Block, Cell, Section, Table, cells
from megacontext.evaluation.reporting.figures import ACCURACY, measure_of, value
from megacontext.evaluation.reporting.standing import distance, standing
from megacontext.evaluation.reporting.study import Entry, Part, TaskRows
from megacontext.evaluation.reporting.words import DASH, apart, figure, listed

BEST_OF = "best or as good"


def summary(part: Part) -> Section:
    """At each budget two tables, methods by tasks: right answers, and nats."""
    blocks: list[Block] = []
    for budget in part.budgets:
        recall = [task for task in part.tasks if task.at(budget) and measure_of(task) is ACCURACY]
        loss = [task for task in part.tasks if task.at(budget) and measure_of(task) is not ACCURACY]
        for tasks, words in ((recall, "share of questions answered right"), (loss, "nats a token")):
            if tasks:
                blocks.append(_summary_table(part, tasks, budget, f"{budget:,} slots: {words}"))
    return Section("Summary", "summary", 3, blocks)


def _summary_table(part: Part, tasks: Sequence[TaskRows], budget: int, title: str) -> Table:
    good = [standing(task, budget, measure_of(task)).good for task in tasks]
    names = [_column(task, tasks) for task in tasks]
    rows = []
    for label in [*part.labels(None), *part.labels(budget)]:
        found = [task.one(label, budget) or task.one(label, None) for task in tasks]
        if not any(found):
            continue
        marks = [
            one is not None and one.budget is not None and label in best for one, best in zip(found, good, strict=True)
        ]
        shown = [Cell(_mean(task, one), mark) for task, one, mark in zip(tasks, found, marks, strict=True)]
        rows.append((Cell(label), *shown, Cell(_times(found, marks))))
    return Table(("method", *names, BEST_OF), tuple(rows), 1, title)


def _mean(task: TaskRows, entry: Entry | None) -> str:
    if entry is None:
        return DASH
    measure = measure_of(task)
    few = "*" if len(entry.seeds) < task.most_seeds else ""
    return f"{figure(value(entry, measure).mean, measure)}{few}"


def _times(found: Sequence[Entry | None], marks: Sequence[bool]) -> str:
    """Of how many tasks it is the best, or may be as good; nothing for those that do not compete."""
    there = [one for one in found if one is not None]
    if any(one.is_ceiling or one.is_variant for one in there):
        return DASH
    return f"{sum(marks)} of {len(there)}"


def _column(task: TaskRows, tasks: Sequence[TaskRows]) -> str:
    """The task's name; its length too where it is there at several, the measure where it is not the usual one."""
    measure = measure_of(task)
    several = sum(other.name == task.name for other in tasks) > 1
    words = f" at {task.tokens:,}" if several else ""
    return f"{task.name}{words}" + ("" if measure is ACCURACY else f" ({measure.words})")


def best(part: Part) -> Section:
    """Of each task and budget the best method, and those that may be as good; and where that tells little."""
    rows, floor = [], []
    for task in part.tasks:
        measure = measure_of(task)
        found = [_best_there(task, budget) if budget in task.budgets else DASH for budget in part.budgets]
        rows.append(cells(task.title, measure.words, *found))
        floor += [f"{task.title}, {budget:,} slots" for budget in task.budgets if _as_good_as_chance(task, budget)]
    heads = ("task", "judged by", *(f"{budget:,} slots" for budget in part.budgets))
    blocks: list[Block] = [Table(heads, tuple(rows), len(heads))]
    if floor:
        told = "Random pages are the best there or may be as good, so choosing well is not what these figures tell of"
        blocks.append(f"{told}: {'; '.join(floor)}.")
    return Section("Best at what", "best", 3, blocks)


def _as_good_as_chance(task: TaskRows, budget: int) -> bool:
    good = standing(task, budget, measure_of(task)).good
    return any(entry.base == RANDOM and entry.label in good for entry in task.at(budget))


def _best_there(task: TaskRows, budget: int) -> str:
    """`keydiff 0.73; as good: tova, infllm`."""
    measure = measure_of(task)
    found = standing(task, budget, measure)
    if found.best is None:
        return DASH
    others = [entry.label for entry in task.at(budget) if entry.label in found.good and entry is not found.best]
    words = f"{found.best.label} {figure(value(found.best, measure).mean, measure)}"
    return f"{words}; as good: {listed(others, 5)}" if others else words


def losses(part: Part, name: str = MEGACONTEXT) -> Section:
    """Tasks and budgets at which `name` is neither the best nor as good."""
    rows = [row for task in part.tasks for budget in task.budgets if (row := _lost(task, budget, name))]
    title = f"Where {name} loses"
    if not any(entry.label == name for entry in part.entries):
        return Section(title, "losses", 3, [f"There is no row of {name}."])
    if not rows:
        words = f"Nowhere: {name} is the best, or may be as good, on every task at every budget that it has a row for."
        return Section(title, "losses", 3, [words])
    heads = ("task", "budget", "judged by", "best", "its figure", name, f"{name} less the best, 95 %")
    return Section(title, "losses", 3, [Table(heads, tuple(rows), 1)])


def _lost(task: TaskRows, budget: int, name: str) -> tuple[Cell, ...] | None:
    measure, ours = measure_of(task), task.one(name, budget)
    found = standing(task, budget, measure)
    if ours is None or found.best is None or name in found.good or len(ours.seeds) < task.most_seeds:
        return None
    best, between = found.best, distance(ours, found.best, measure)
    figures = (figure(value(one, measure).mean, measure) for one in (best, ours))
    return cells(task.title, f"{budget:,}", measure.words, best.label, *figures, apart(between, measure))


def methods(part: Part) -> Section:
    """Which paper a method is of, and what it ran with at each budget where that is not its own default."""
    rows = []
    for label in dict.fromkeys(label for budget in (None, *part.budgets) for label in part.labels(budget)):
        mine = [entry for entry in part.entries if entry.label == label]
        paper = METHODS[mine[0].base].paper if mine[0].base in METHODS else ""
        rows.append(cells(label, paper, "; ".join(_settings(mine)) or "its own defaults"))
    return Section("Methods and their settings", "methods", 3, [Table(("method", "paper", "settings"), tuple(rows), 3)])


def _settings(entries: Sequence[Entry]) -> list[str]:
    """`at 512 sinks=16`, one for each budget at which anything is set."""
    found: dict[str, None] = {}
    for entry in sorted(entries, key=lambda entry: entry.budget or 0):
        said = ", ".join(f"{key}={setting}" for key, setting in (entry.row.get("settings") or {}).items())
        if said:
            found[f"at {entry.budget:,} {said}" if entry.budget else said] = None
    return list(found)
