"""How sure a mean is: bootstrap intervals over (seed, item). Numbers alone; knows nothing of tasks or memories.

A sample is one list of figures for each seed: an episode's questions, or its pieces of text. What is drawn again is
what varied: seeds with replacement, and within each drawn seed its items with replacement (the two-stage bootstrap;
Davison and Hinkley 1997, section 3.8). The statistic is the mean over seeds of each seed's mean, as rows report it.
Intervals are percentiles of it. Two memories are compared by the differences on the same seed and item, which takes
out how hard the item was.

Where nothing varied (all answers right), resampling would claim certainty. Then the bound is the exact binomial one:
after n equal outcomes, another one has a chance of at most 1 - (alpha / 2) ** (1 / n) (Clopper and Pearson 1934).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Sample = Sequence[Sequence[float]]  # of each seed, its items
Interval = tuple[float, float]

SHARE = 0.95
RESAMPLES = 4000


def interval(sample: Sample, *, bounds: Interval | None = None, resamples: int = RESAMPLES) -> Interval | None:
    """The 95 % interval of the mean over seeds of their means; None if there is nothing, or a single figure.

    bounds: what a figure can be at all, (0, 1) for right and wrong: then figures that are all equal still leave doubt.
    """
    drawn = [np.asarray(items, dtype=np.float64) for items in sample if len(items)]
    count = sum(map(len, drawn))
    if not drawn or (count < 2 and bounds is None):
        return None
    values = np.concatenate(drawn)
    if bounds is not None and np.all(values == values[0]):
        return _all_equal(float(values[0]), count, bounds)
    means = resampled_means(drawn, resamples)
    low, high = np.quantile(means, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return round(float(low), 5), round(float(high), 5)


def resampled_means(sample: Sequence[NDArray[np.float64]], resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """(resamples,) the statistic of as many two-stage resamples; always the same ones for the same sizes."""
    rng = np.random.default_rng(seed)
    seeds = len(sample)
    chosen = rng.integers(0, seeds, (resamples, seeds))
    means = np.empty((resamples, seeds))
    for number, items in enumerate(sample):
        at = chosen == number
        picks = rng.integers(0, len(items), (int(at.sum()), len(items)))
        means[at] = items[picks].mean(1)
    found: NDArray[np.float64] = means.mean(1)
    return found


def differences(ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]]) -> list[list[float]]:
    """Ours less theirs, item by item, of the seeds that both have and that have as many items in both."""
    both = [seed for seed in ours if seed in theirs and len(ours[seed]) == len(theirs[seed])]
    return [[a - b for a, b in zip(ours[seed], theirs[seed], strict=True)] for seed in both]


def _all_equal(value: float, count: int, bounds: Interval) -> Interval:
    """After `count` equal figures: the chance that is left goes to either bound."""
    doubt = 1 - ((1 - SHARE) / 2) ** (1 / count)
    return round(value - doubt * (value - bounds[0]), 5), round(value + doubt * (bounds[1] - value), 5)
