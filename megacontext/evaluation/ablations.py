"""The memory without one of its ideas, to see what that idea adds. For evaluation only."""

from __future__ import annotations

from collections.abc import Mapping

from megacontext.cache import ContextCache
from megacontext.context import WorkingContext
from megacontext.view import View


class TextPositions(View):
    """Every token stays at the position that it has in the text, as in a plain cache, however far that is."""

    def crowded(self, context: WorkingContext, rows: int, *, settled: bool = False) -> bool:
        return False

    def renumber(
        self,
        context: WorkingContext,
        recent_start: int,
        *,
        newcomer: int | None = None,
        prompt: int = 0,
        worth: Mapping[int, float] | None = None,
    ) -> None:
        self.vacant = []

    def _place(self, number: int) -> int:
        return number * self.block


class AbsoluteCache(ContextCache):
    """Without compact positions. Past the trained length it asks for positions that the model has never seen."""

    make_view = TextPositions
