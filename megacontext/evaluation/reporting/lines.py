"""What the pictures show, as points: quality against bytes, recall and milliseconds against history. Numbers alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.names import FULL, MEGACONTEXT, ORACLE, OURS, RANDOM
from megacontext.evaluation.reporting.figures import ACCURACY, DELTA, measure_of, value
from megacontext.evaluation.reporting.looks import in_order
from megacontext.evaluation.reporting.study import Entry, Part, TaskRows

Lines = dict[str, list[tuple[float, float]]]  # by memory, points in ascending order
MEGABYTE = 1e6
RECALL_BY_LENGTH = ("late_recall", "late_recall_long", "late_recall_100x")
ENOUGH = 0.8  # share of the methods that must have a task for it to count in the mean of all
PARTS_OF_OURS = frozenset(OURS) - {FULL, ORACLE, RANDOM, MEGACONTEXT, "recency"}  # in the tables, not in pictures
LIKED = 1024  # slots at which recall is drawn, where there are rows of them


@dataclass(frozen=True)
class Quality:
    """One panel. tasks: whose mean it is. left_out: memories that lack one of them."""

    lines: Lines
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def words(self) -> str:
        """What the panel does not show."""
        few = f"; not drawn, for want of rows: {', '.join(self.left_out)}" if self.left_out else ""
        return f"mean of {', '.join(self.tasks)}{few}"


def recall_by_bytes(part: Part) -> Quality:
    """Of each memory a point a budget: megabytes, and the mean share of right answers over tasks that most have."""
    return _quality(part, [task for task in part.tasks if measure_of(task) is ACCURACY], "accuracy")


def loss_by_bytes(part: Part) -> Quality:
    """The same with nats a token above full attention, of running text."""
    return _quality(part, [task for task in part.tasks if measure_of(task) is DELTA], "delta_nll")


def _quality(part: Part, tasks: Sequence[TaskRows], key: str) -> Quality:
    """The tasks are those at the most budgets that most methods have; a memory that lacks one has no point."""
    most = max((len(task.budgets) for task in tasks), default=0)
    tasks = [task for task in tasks if len(task.budgets) == most]
    drawn = {entry.label for task in tasks for entry in task.entries if _drawn(entry) and not entry.is_ceiling}
    shared = [task for task in tasks if _share(task, drawn) >= ENOUGH]
    names = drawn | {entry.label for task in shared for entry in task.entries if entry.is_ceiling and _drawn(entry)}
    lines: Lines = {}
    for name in in_order(list(names)):
        points = [_point(shared, name, budget, key) for budget in (None, *part.budgets)]
        if known := sorted(point for point in points if point is not None):
            lines[name] = known
    left = tuple(sorted(drawn - set(lines)))
    return Quality(lines, tuple(dict.fromkeys(task.name for task in shared)), left)


def _share(task: TaskRows, names: set[str]) -> float:
    return sum(entry.label in names for entry in {e.label: e for e in task.entries}.values()) / max(len(names), 1)


def _point(tasks: Sequence[TaskRows], name: str, budget: int | None, key: str) -> tuple[float, float] | None:
    """Largest bytes and mean quality over the tasks; None if the memory lacks one of them."""
    mine = [task.one(name, budget) for task in tasks]
    found = [entry.row for entry in mine if entry is not None and entry.row.get(key) is not None]
    sizes = [row["bytes"] for row in found if row.get("bytes")]
    if not found or len(found) < len(tasks) or not sizes:
        return None
    return max(sizes) / MEGABYTE, fmean(row[key] for row in found)


def liked_budget(part: Part) -> int | None:
    """The slots at which most lengths of recall are there; of equal ones 1,024."""
    tasks = [task for task in part.tasks if task.name in RECALL_BY_LENGTH]
    counts = {budget: sum(budget in task.budgets for task in tasks) for budget in part.budgets}
    return max(counts, key=lambda budget: (counts[budget], budget == LIKED, budget)) if counts else None


def recall_by_history(part: Part, names: Sequence[str] = RECALL_BY_LENGTH) -> Lines:
    """Of each memory the recall at each length, at one budget; those with one length alone only if all are so."""
    budget = liked_budget(part)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for task in part.tasks:
        if task.name not in names:
            continue
        for entry in (*task.at(None), *task.at(budget)):
            mean = value(entry, ACCURACY).mean
            if mean is not None and _drawn(entry) and entry.row.get("history_tokens"):
                found[entry.label].append((float(rounded(entry.row["history_tokens"])), mean))
    lines = {name: merged(found[name]) for name in in_order(list(found))}
    several = {name: points for name, points in lines.items() if len(points) > 1 or name == FULL}
    return several if len(several) > 1 else lines


def _drawn(entry: Entry) -> bool:
    """Pictures leave out what was changed by hand and what is a part of ours: they have other people's to show."""
    return not entry.is_variant and entry.base not in PARTS_OF_OURS


def milliseconds_by_history(rows: Iterable[Row]) -> Lines:
    """Of each memory the median milliseconds of a decoded token at each length; of several rows their mean."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row.get("decode_ms_p50") is not None and row.get("cache"):
            found[str(row["cache"])].append((float(rounded(row["history_tokens"])), float(row["decode_ms_p50"])))
    return {name: merged(found[name]) for name in in_order(list(found))}


def trained(rows: Iterable[Row]) -> int | None:
    """The length that the model was trained on, if a row says it."""
    return next((row["trained_positions"] for row in rows if row.get("trained_positions")), None)


def rounded(tokens: int) -> int:
    """To two figures: 5,987 and 6,012 tokens of the same task are one point."""
    unit: int = 10 ** max(len(str(tokens)) - 2, 0)
    return round(tokens / unit) * unit


def merged(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of one length as one."""
    by_place: dict[float, list[float]] = defaultdict(list)
    for x, y in points:
        by_place[x].append(y)
    return [(x, fmean(values)) for x, values in sorted(by_place.items())]
