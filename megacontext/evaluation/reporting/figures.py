"""What a row says, figure by figure: of each seed its items, of a task or of one named part of it.

A task is judged by one measure: the share of right answers where it asks; the distance to full attention where it
measures that; else the loss above full attention, or the loss itself where there is no row of `full`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from typing import NamedTuple

import numpy as np

from megacontext.evaluation.comparison.bootstrap import SHARE, Interval, differences, interval, resampled_means
from megacontext.evaluation.reporting.study import Entry, TaskRows

Figures = dict[int, list[float]]  # by seed, its items

RESAMPLES = 2000  # of a ratio


class Measure(NamedTuple):
    """key: of the row. words: a column's heading. up: more is better. meaning: of a table's figures."""

    key: str
    words: str
    up: bool
    meaning: str

    @property
    def bounds(self) -> Interval | None:
        return (0.0, 1.0) if self.key == "accuracy" else None


ACCURACY = Measure("accuracy", "right", True, "share of questions answered right")
KL = Measure("kl", "KL", False, "nats a token from full attention's predictions")
DELTA = Measure("delta_nll", "ΔNLL", False, "nats a token above full attention")
NLL = Measure("nll", "NLL", False, "nats a token")


def measure_of(task: TaskRows) -> Measure:
    """By what the task is judged."""
    for measure in (ACCURACY, KL, DELTA):
        if any(entry.row.get(measure.key) is not None for entry in task.entries):
            return measure
    return NLL


def figures(entry: Entry, measure: Measure, group: str | None = None) -> Figures:
    """Of each seed the items; those of a named part if `group` says so. Seeds without any are left out.

    Of ΔNLL they are the losses themselves: pairs of memories differ in both by the same.
    """
    found: Figures = {}
    for one in entry.row["per_seed"]:
        if group is not None:
            items = one.get("groups", {}).get(group) or []
        elif measure is KL:
            items = [] if one.get("kl") is None else [one["kl"]]
        elif measure is ACCURACY:
            items = one.get("items") or [] if one.get("accuracy") is not None else []
        else:
            items = one.get("item_nll") or []
        if items and all(isfinite(item) for item in items):
            found[one["seed"]] = list(items)
    return found


def mean_of(found: Figures) -> float | None:
    """As rows count: the mean over seeds of each seed's mean."""
    return fmean(fmean(items) for items in found.values()) if found else None


class Value(NamedTuple):
    """A figure and its 95 % interval, either of which may be unknown."""

    mean: float | None
    interval: Interval | None


NOTHING = Value(None, None)


def value(entry: Entry, measure: Measure) -> Value:
    """As the row says it, where it does."""
    said = (entry.row.get("interval") or {}).get(measure.key)
    if said is None and measure is KL:
        said = interval(list(figures(entry, measure).values()))
    return Value(entry.row.get(measure.key), None if said is None else (said[0], said[1]))


def group_value(task: TaskRows, entry: Entry, measure: Measure, group: str) -> Value:
    """Of a named part; of ΔNLL the paired distance to `full`, with its interval, where that is there."""
    mine = figures(entry, measure, group)
    if measure is not DELTA:
        return Value(mean_of(mine), None)
    if task.full is None:
        return NOTHING
    sample = differences(mine, figures(task.full, measure, group))
    return Value(fmean(map(fmean, sample)), interval(sample)) if sample else NOTHING


def share_below(entry: Entry, other: Entry, full: Entry) -> Value:
    """How far below `other`'s loss above `full` this one's is: 0.85 is 85 % less. Unknown where `other` has none.

    All three on the same seeds and items, drawn again together.
    """
    ours, theirs, base = (figures(one, NLL) for one in (entry, other, full))
    seeds = [seed for seed in ours if len({len(one.get(seed, ())) for one in (ours, theirs, base)}) == 1]
    if not seeds:
        return NOTHING
    mine, his = (_above(one, base, seeds) for one in (ours, theirs))
    if (below := float(np.mean([items.mean() for items in his]))) <= 0:
        return NOTHING
    share = 1 - float(np.mean([items.mean() for items in mine])) / below
    return Value(share, _ratio_interval(mine, his))


def _above(one: Figures, base: Figures, seeds: Sequence[int]) -> list[np.ndarray]:
    return [np.asarray(one[seed]) - np.asarray(base[seed]) for seed in seeds]


def _ratio_interval(mine: list[np.ndarray], his: list[np.ndarray]) -> Interval | None:
    """Unknown where the other's distance may be none at all: then no share of it means anything."""
    below = resampled_means(his, RESAMPLES)
    if np.quantile(below, (1 - SHARE) / 2) <= 0:
        return None
    low, high = np.quantile(1 - resampled_means(mine, RESAMPLES) / below, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)
