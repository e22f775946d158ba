"""The books of a comparison: which episodes there are, and the rows they make. Every episode goes to the file at once.

A row is written anew whenever it has grown by an episode, and read back as what its last line says; so a killed run
loses the episode that it was at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from megacontext.evaluation.comparison.matrix import Cell, Work
from megacontext.evaluation.comparison.rows import Row, RowFile
from megacontext.evaluation.comparison.summary import summarise
from megacontext.evaluation.names import FULL, MEGACONTEXT


class Ledger:
    """cells with their identities (see `Runner.identity`); said: what every row also says."""

    def __init__(self, cells: Mapping[Cell, Row], file: RowFile, said: Row) -> None:
        self.cells, self.file, self.said = dict(cells), file, said
        self._by_place = {cell.place: cell for cell in reversed(self.cells)}  # of trials: the first
        self.episodes: dict[Cell, dict[int, Mapping[str, Any]]] = {
            cell: {one["seed"]: one for one in file.finished.get(identity["run"], {}).get("per_seed", ())}
            for cell, identity in cells.items()
        }

    def has(self, work: Work) -> bool:
        """Whether this episode is there."""
        return work.seed in self.episodes[work.cell]

    def add(self, work: Work, episode: Mapping[str, Any]) -> None:
        """Keep the episode, and the rows that it changes."""
        self.episodes[work.cell][work.seed] = episode
        for cell in [work.cell, *self._measured_against(work)]:
            row = self.row(cell)
            assert row is not None
            self.file.add(row)

    def row(self, cell: Cell) -> Row | None:
        """The row so far; None without an episode."""
        episodes = self.episodes[cell]
        if not episodes:
            return None
        full, ours = self._raw(self._full(cell)), self._raw(self._ours(cell))
        against = {MEGACONTEXT: ours} if ours and cell.cache != MEGACONTEXT else {}
        return {**self.cells[cell], **summarise(episodes.values(), full, **against), **self.said}

    def rows(self) -> list[Row]:
        """All that there are, in the order of the cells."""
        return [row for row in map(self.row, self.cells) if row is not None]

    def _measured_against(self, work: Work) -> list[Cell]:
        """The rows that change because this one has."""
        if work.cell.cache not in (FULL, MEGACONTEXT):
            return []
        others = (cell for cell in self.cells if cell is not work.cell and work.seed in self.episodes[cell])
        return [cell for cell in others if work.cell in (self._full(cell), self._ours(cell))]

    def _full(self, cell: Cell) -> Cell | None:
        """The plain cache on the same task."""
        return self._by_place.get(replace(cell, cache=FULL, budget=None).place)

    def _ours(self, cell: Cell) -> Cell | None:
        """Our memory at the same budget."""
        return self._by_place.get(replace(cell, cache=MEGACONTEXT).place)

    def _raw(self, cell: Cell | None) -> Row | None:
        """What other rows need of this one."""
        return None if cell is None else {"per_seed": list(self.episodes[cell].values())}
