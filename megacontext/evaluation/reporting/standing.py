"""Who is best at one budget, and who may be as good: those whose paired interval against the best holds 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

from megacontext.evaluation.comparison.bootstrap import Interval, differences, interval
from megacontext.evaluation.reporting.figures import DELTA, KL, NLL, Measure, figures, mean_of
from megacontext.evaluation.reporting.study import Entry, TaskRows

DIFFERENCE = (-1.0, 1.0)


@dataclass(frozen=True)
class Standing:
    """best: None where nobody competes. good: labels of the best and of those that may be as good.

    apart: of each other one the paired interval of its figures less the best's.
    """

    best: Entry | None = None
    good: frozenset[str] = frozenset()
    apart: dict[str, Interval] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def standing(task: TaskRows, budget: int, measure: Measure, group: str | None = None) -> Standing:
    """Among those that compete at `budget`, on the whole task or on a named part of it.

    Of equal shares of right answers the one that gave them the higher likelihood is the best.
    """
    competing = task.competing(budget)
    means = {entry.label: mean_of(figures(entry, measure, group)) for entry in competing}
    known = [(mean, entry) for entry in competing if (mean := means[entry.label]) is not None]
    if not known:
        return Standing()
    best = min(known, key=lambda pair: (-pair[0] if measure.up else pair[0], _loss(pair[1])))[1]
    good, apart = {best.label}, {}
    for _, entry in known:
        between = None if entry is best else distance(entry, best, measure, group)
        if between is not None:
            apart[entry.label] = between
            good |= {entry.label} if between[0] <= 0 <= between[1] else set()
    return Standing(best, frozenset(good), apart)


def _loss(entry: Entry) -> float:
    found = mean_of(figures(entry, NLL))
    return inf if found is None else found


def distance(ours: Entry, theirs: Entry, measure: Measure, group: str | None = None) -> Interval | None:
    """The paired 95 % interval of ours less theirs, on the seeds that both have; None where that says nothing."""
    sample = differences(figures(ours, measure, group), figures(theirs, measure, group))
    bounds = None if measure in (DELTA, NLL, KL) else DIFFERENCE
    return interval(sample, bounds=bounds)
