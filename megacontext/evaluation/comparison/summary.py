"""From episodes to a row: means over seeds, how sure they are, and the distance to other rows. No tensors here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from megacontext.evaluation.comparison.bootstrap import Interval, Sample, differences
from megacontext.evaluation.comparison.bootstrap import interval as bootstrap
from megacontext.evaluation.comparison.rows import Row

Episode = Mapping[str, Any]
Figures = dict[int, Sequence[float]]  # by seed, its items

RIGHT_OR_WRONG, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)
LARGEST = ("history_tokens", "slots", "read_slots", "bytes", "disk_bytes", "selection_flops")


def summarise(episodes: Iterable[Episode], full: Mapping[str, Any] | None, **against: Mapping[str, Any]) -> Row:
    """The figures of a row from its episodes, of which there is at least one.

    Means over seeds, each episode counting the same; history, slots, bytes and FLOPs are the largest. full: the plain
    cache's row of the same task, from which delta_nll is counted; without it, it is null. against: rows, by name, to
    which the paired difference is told.
    """
    base = {one["seed"]: one["nll"] for one in full["per_seed"]} if full else {}
    per_seed = sorted(
        ({**one, "delta_nll": _less(one["nll"], base.get(one["seed"]))} for one in episodes),
        key=lambda one: one["seed"],
    )
    return {
        "seeds": len(per_seed),
        **{name: largest([one.get(name) for one in per_seed]) for name in LARGEST},
        **{name: mean([one.get(name) for one in per_seed]) for name in ("accuracy", "nll", "delta_nll", "kl")},
        "tokens": sum(one["tokens"] for one in per_seed),
        **{name: round(sum(one[name] for one in per_seed), 1) for name in ("seconds", "cpu_seconds")},
        "groups": _groups(per_seed),
        "interval": _intervals(per_seed, full["per_seed"] if full else ()),
        "against": {name: _paired(per_seed, row["per_seed"]) for name, row in against.items()},
        "per_seed": per_seed,
    }


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None if any is missing."""
    known = [value for value in values if value is not None]
    return round(fmean(known), 5) if known and len(known) == len(values) else None


def largest(values: Sequence[int | None]) -> int | None:
    """The largest of those there are."""
    return max((value for value in values if value is not None), default=None)


def _less(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else round(value - base, 5)


def _groups(episodes: Sequence[Episode]) -> dict[str, float]:
    """Of each named part the mean over the seeds that have it."""
    names = dict.fromkeys(name for one in episodes for name in one.get("groups", {}))
    of = {name: [fmean(one["groups"][name]) for one in episodes if one["groups"].get(name)] for name in names}
    return {name: round(fmean(means), 5) for name, means in of.items() if means}


def _intervals(ours: Sequence[Episode], full: Sequence[Episode]) -> dict[str, list[float] | None]:
    return {
        "accuracy": _interval(list(_rights(ours).values()), RIGHT_OR_WRONG),
        "nll": _interval(list(_losses(ours).values())),
        "delta_nll": _interval(differences(_losses(ours), _losses(full))),
    }


def _paired(ours: Sequence[Episode], theirs: Sequence[Episode]) -> dict[str, list[float] | None]:
    """Ours less theirs: above 0 is better in accuracy, below 0 in loss."""
    return {
        "accuracy": _interval(differences(_rights(ours), _rights(theirs)), DIFFERENCE),
        "nll": _interval(differences(_losses(ours), _losses(theirs))),
    }


def _interval(sample: Sample, bounds: Interval | None = None) -> list[float] | None:
    """As JSON gives it back."""
    found = bootstrap(sample, bounds=bounds)
    return None if found is None else list(found)


def _rights(episodes: Sequence[Episode]) -> Figures:
    """Of the questions: 1.0 right, 0.0 wrong."""
    return {one["seed"]: one.get("items", ()) for one in episodes if one["accuracy"] is not None}


def _losses(episodes: Sequence[Episode]) -> Figures:
    """Nats a token of every question's right answer, or of every piece of text."""
    return {one["seed"]: one.get("item_nll", ()) for one in episodes}
