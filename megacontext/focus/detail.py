"""How many far blocks deserve detail, from which score: few and sharp where one stands out, many where none does."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

UNSURE = 0.65  # the best score when no block stands out; docs/decisions/0009 has the measurements
ALIKE = 0.5  # of the best score: blocks that may then be as good as it
CROWD = 8  # so many alike are about as good as each other


class Detail(NamedTuple):
    """Up to `most` blocks, whose score is more than `above` and at least `least`. Scores are in [-1, 1]."""

    most: int
    above: float
    least: float = -1.0


def prompt_detail(scores: Collection[float], few: Detail, many: int, sharpness: float) -> Detail:
    """What a prompt's end deserves, by the scores of all blocks before it.

    A question about one thing has a block that stands out, and what scores well below it (`sharpness` times) says
    something else in the same words. A question about what stands in many places has a best block that is not sure of
    itself and a crowd that is about as good: then up to `many` of these come. many: 0 for never.
    """
    best = max(scores, default=0.0)
    if many > few.most > 0 and few.above < best < UNSURE:
        alike = ALIKE * best
        if sum(score >= alike for score in scores) >= CROWD:
            return Detail(many, 0.0, alike)
    return few._replace(least=sharpness * best)
