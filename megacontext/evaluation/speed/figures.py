"""Medians, spreads and ratios of times that were taken in turns. Numbers alone: no torch, no models.

Machines are busy with other things, now more and now less, so contenders take turns: A B C A B C ... What happens in
one round happens to all alike; a ratio is taken within each round, and its median over the rounds is what counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import median
from typing import NamedTuple

from megacontext.telemetry.timing import percentile

Rounds = Sequence[Sequence[float]]  # milliseconds: one sequence a round


class Spread(NamedTuple):
    """Quartiles."""

    p25: float
    p50: float
    p75: float

    def rounded(self, digits: int = 3) -> list[float]:
        return [round(value, digits) for value in self]


def spread(values: Sequence[float]) -> Spread:
    """Quartiles of a non-empty sequence; the middle one is the median."""
    return Spread(percentile(values, 0.25), median(values), percentile(values, 0.75))


def together(rounds: Rounds) -> list[float]:
    """All times of all rounds."""
    return list(chain.from_iterable(rounds))


def ratio(upper: Rounds, lower: Rounds) -> Spread:
    """How many times as long `upper` takes as `lower`: medians of each round divided, quartiles over the rounds.

    One of them may have left earlier: the rounds that both took part in count.
    """
    return spread([median(one) / median(other) for one, other in zip(upper, lower, strict=False)])


def ratio_of_sums(upper: Rounds, lower: Rounds) -> float:
    """The same of all the time that both took: what happens seldom counts as well, and so do disturbances."""
    both = list(zip(upper, lower, strict=False))
    return sum(sum(one) for one, _ in both) / sum(sum(other) for _, other in both)
